"""Agreeing on a pool's key: who may join, what is sealed with which key, and how keys change."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.integration import life
from tests.integration.life import PAYLOAD, raw

from tokenlane.config.host.embedded_server import EmbeddedServer
from tokenlane.config.host.pool_key_files import KeyRing, PoolKey, write_key_file
from tokenlane.producer import Client, PoolKeyMismatch
from tokenlane.routing.contract.envelope import Envelope
from tokenlane.routing.contract.errors import BadRequest
from tokenlane.routing.store.pool import Pool, connect

OLD, NEW, OTHER = PoolKey.new(), PoolKey.new(), PoolKey.new()


def ring(*keys: PoolKey) -> KeyRing:
    return KeyRing(keys)


async def refused(url: str, keys: KeyRing, *, unseals: bool = False) -> str:
    """What the error of connecting says; it holds no key."""
    with pytest.raises(PoolKeyMismatch) as error:
        async with connect(url, keys=keys, unseals=unseals):
            pass
    said = f"{error.value} {error.value!r} {error.value.report()!r}"
    assert not [key for key in (OLD, NEW, OTHER) if key.reveal() in said]
    return said


async def entry(pool: Pool, request_id: str) -> tuple[Envelope, bytes]:
    """A waiting request as it lies in its stream."""
    for _, fields in await raw(pool).xrange(f"{life.PREFIX}role:{life.ROLE}"):
        envelope = Envelope.model_validate_json(fields[b"envelope"])
        if envelope.id == request_id:
            return envelope, fields[b"payload"]
    raise AssertionError("no such entry")


async def test_the_first_client_with_a_key_seals_the_pool(redis_url: str) -> None:
    """The first client with a key announces its id. Clients with another key, or without one, are refused."""
    async with connect(redis_url, keys=ring(OLD)) as pool:
        assert pool.keychain.key_id == OLD.id
        assert await pool.key_agreement.key_ids() == (OLD.id,)
        async with connect(redis_url, keys=ring(OLD), unseals=True) as worker:
            assert worker.keychain.key_id == OLD.id
        for keys in (ring(), ring(OTHER)):
            for unseals in (False, True):
                said = await refused(redis_url, keys, unseals=unseals)
                assert OLD.id in said
                assert "tokenlane key show --reveal" in said
        assert await raw(pool).get("{main}:key") == OLD.id.encode()


async def test_routers_need_no_key(redis_url: str) -> None:
    """Routers and operators connect to a sealed pool without a key."""
    async with connect(redis_url, keys=ring(OLD)), connect(redis_url) as router:
        assert await router.key_agreement.key_ids() == (OLD.id,)
        await life.sweep(router)


async def test_a_pool_in_use_without_a_key_stays_so(redis_url: str) -> None:
    """A client with a key is refused while other clients use the pool without a key."""
    async with connect(redis_url) as pool:
        await life.submit(pool)
        said = await refused(redis_url, ring(OLD))
        assert said.startswith(f"The pool 'main' at {redis_url} is in use without a key")
        await pool.beats.leave(life.CLIENT)
        await life.sweep(pool)
        async with connect(redis_url, keys=ring(OLD)) as sealed:
            assert sealed.keychain.key_id == OLD.id
        with pytest.raises(PoolKeyMismatch, match=OLD.id):
            await life.submit(pool)


@pytest.mark.parametrize("who", ["worker", "client"])
async def test_beats_without_a_key_keep_the_pool_unsealed(redis_url: str, who: str) -> None:
    """An idle worker or agent without a key counts as using the pool, too."""
    async with connect(redis_url) as pool:
        if who == "worker":
            await life.beat(pool)
        else:
            await pool.beats.check("client1")
        assert "in use without a key" in await refused(redis_url, ring(OLD))


async def test_payloads_in_redis_are_sealed(redis_url: str) -> None:
    """The entry names the key and contains no plain text; a process with the key unseals it."""
    async with connect(redis_url, keys=ring(OLD), unseals=True) as pool:
        request_id = await life.submit(pool)
        envelope, sealed = await entry(pool, request_id)
        assert envelope.key_id == OLD.id
        assert PAYLOAD not in sealed
        assert pool.keychain.unseal(envelope, sealed) == PAYLOAD


async def test_changed_payloads_are_refused(redis_url: str) -> None:
    """Another request's payload, a changed one, one without a seal and one under an unknown key: each a typed error."""
    async with connect(redis_url, keys=ring(OLD), unseals=True) as pool:
        first, second = await life.submit(pool), await life.submit(pool)
        envelope, sealed = await entry(pool, first)
        _, other = await entry(pool, second)
        for payload in (other, sealed[:-1], b""):
            with pytest.raises(BadRequest):
                pool.keychain.unseal(envelope, payload)
        with pytest.raises(PoolKeyMismatch, match=OLD.id) as bare:
            pool.keychain.unseal(envelope.model_copy(update={"key_id": None}), PAYLOAD)
        assert not bare.value.retryable, "no worker can open what nobody sealed"
        with pytest.raises(PoolKeyMismatch, match=OTHER.id):
            pool.keychain.unseal(envelope.model_copy(update={"key_id": OTHER.id}), sealed)
    async with connect(redis_url) as keyless:
        with pytest.raises(PoolKeyMismatch, match=OLD.id):
            keyless.keychain.unseal(envelope, sealed)


async def test_agents_follow_a_change_of_keys(redis_url: str, tmp_path: Path) -> None:
    """The newest key seals as soon as the pool has it; the old one opens what waits; an agent reads its file again."""
    keys = write_key_file(tmp_path / "pool.key", [OLD])
    async with connect(redis_url, keys=keys) as agent, connect(redis_url, keys=keys, unseals=True) as worker:
        before = await life.submit(agent)
        write_key_file(tmp_path / "pool.key", [NEW, OLD])
        async with connect(redis_url) as operator:
            await operator.key_agreement.announce(ring(NEW, OLD))
        between = await life.submit(agent)
        after = await life.submit(agent)
        used = [await entry(agent, request_id) for request_id in (before, between, after)]
        assert [envelope.key_id for envelope, _ in used] == [OLD.id, OLD.id, NEW.id]
        assert [worker.keychain.unseal(*one) for one in used] == [PAYLOAD] * 3
        assert agent.keychain.key_id == NEW.id


async def test_agents_need_one_of_two_keys_and_workers_both(redis_url: str) -> None:
    """While keys change, an agent with either may ask, sealing with the one it has; a worker needs both."""
    async with connect(redis_url, keys=ring(NEW, OLD), unseals=True) as worker:
        for key in (OLD, NEW):
            async with connect(redis_url, keys=ring(key)) as agent:
                envelope, sealed = await entry(agent, await life.submit(agent))
                assert envelope.key_id == key.id
                assert worker.keychain.unseal(envelope, sealed) == PAYLOAD
            assert NEW.id in await refused(redis_url, ring(key), unseals=True)
        async with connect(redis_url, keys=ring(OTHER, NEW, OLD), unseals=True):
            pass


async def test_a_key_that_was_dropped(redis_url: str, tmp_path: Path) -> None:
    """When the old key is dropped, an agent with a file goes on with the new one; one without is refused."""
    keys = write_key_file(tmp_path / "pool.key", [OLD])
    async with connect(redis_url, keys=keys) as reads, connect(redis_url, keys=ring(OLD)) as stubborn:
        write_key_file(tmp_path / "pool.key", [NEW])
        async with connect(redis_url) as operator:
            await operator.key_agreement.announce(ring(NEW))
        envelope, _ = await entry(reads, await life.submit(reads))
        assert envelope.key_id == NEW.id
        with pytest.raises(PoolKeyMismatch, match=NEW.id):
            await life.submit(stubborn)
        assert len(await raw(reads).xrange(f"{life.PREFIX}role:{life.ROLE}")) == 1


async def test_a_missing_key_is_retryable_if_another_worker_may_have_it(redis_url: str) -> None:
    """Another worker may have a key that the pool uses or retires; no worker has a key that the pool has dropped."""
    async with connect(redis_url, keys=ring(OLD)) as agent, connect(redis_url, keys=ring(OLD), unseals=True) as worker:
        async with connect(redis_url) as operator:
            await operator.key_agreement.announce(ring(NEW, OLD))
            async with connect(redis_url, keys=ring(NEW)) as other:
                new = await entry(agent, await life.submit(other))
            old = await entry(agent, await life.submit(agent))
            assert await worker.key_agreement.unseal(*old) == PAYLOAD
            with pytest.raises(PoolKeyMismatch, match=NEW.id) as lacking:
                await worker.key_agreement.unseal(*new)
            assert lacking.value.retryable
            async with connect(redis_url, keys=ring(NEW, OLD), unseals=True) as both:
                both.keychain.ring = ring(NEW)
                await operator.key_agreement.announce(ring(NEW), retiring=[OLD.id])
                with pytest.raises(PoolKeyMismatch, match=OLD.id) as lacking:
                    await both.key_agreement.unseal(*old)
                assert lacking.value.retryable
                assert OLD.id in await refused(redis_url, ring(NEW), unseals=True)
                with pytest.raises(PoolKeyMismatch, match=NEW.id):
                    await life.submit(agent)
                await operator.key_agreement.announce(ring(NEW))
                with pytest.raises(PoolKeyMismatch, match=OLD.id) as dropped:
                    await both.key_agreement.unseal(*old)
                assert not dropped.value.retryable
                assert await both.key_agreement.unseal(*new) == PAYLOAD
            async with connect(redis_url, keys=ring(NEW), unseals=True):
                pass


async def test_a_wiped_server_learns_the_key_again(redis_url: str) -> None:
    """The first request after a wipe announces the key again, and all agents go on."""
    async with connect(redis_url, keys=ring(NEW, OLD)) as agent, connect(redis_url, keys=ring(OLD)) as other:
        await raw(agent).flushall()
        await life.submit(other)
        assert await agent.key_agreement.key_ids() == (OLD.id,)
        envelope, _ = await entry(agent, await life.submit(agent))
        assert envelope.key_id == OLD.id
        await refused(redis_url, ring())


@pytest.mark.parametrize("who", ["worker", "client"])
async def test_a_wiped_server_learns_the_key_from_beats(redis_url: str, who: str) -> None:
    """Once a worker or an idle client has sent a beat, processes with the key can join again, and others cannot."""
    async with connect(redis_url, keys=ring(NEW, OLD)) as pool:
        await raw(pool).flushall()
        await (life.beat(pool) if who == "worker" else pool.beats.check(life.CLIENT))
        async with connect(redis_url, keys=ring(NEW, OLD), unseals=True) as worker:
            assert await worker.key_agreement.key_ids() == (NEW.id, OLD.id)
        await refused(redis_url, ring())


async def test_a_request_sent_twice(redis_url: str) -> None:
    """A request the pool has is accepted again whatever has become of its key: nothing is written."""
    async with connect(redis_url, keys=ring(OLD)) as agent:
        of = life.envelope()
        await life.submit(agent, of)
        async with connect(redis_url) as operator:
            await operator.key_agreement.announce(ring(NEW))
        await life.submit(agent, of)
        assert await raw(agent).xlen(f"{life.PREFIX}role:{life.ROLE}") == 1


async def test_the_embedded_server_s_key_is_found(tmp_path: Path) -> None:
    """With the socket's URL alone a client joins the embedded server's pool, sealed; with another key it does not."""
    async with EmbeddedServer() as server:
        async with Client(server.url), connect(server.url) as pool:
            (key_id,) = await pool.key_agreement.key_ids()
        with pytest.raises(PoolKeyMismatch, match=key_id):
            async with Client(server.url, key=OTHER.reveal()):
                pass
        server.key_file.chmod(0o644)
        with pytest.raises(PoolKeyMismatch, match="chmod 600"):
            async with Client(server.url):
                pass
        server.key_file.unlink()
        with pytest.raises(PoolKeyMismatch, match=key_id):
            async with Client(server.url):
                pass


def test_a_client_s_key() -> None:
    """A client takes one key or several, or None for none, shows none, and refuses what is none."""
    for key in (OLD.reveal(), [NEW.reveal(), OLD.reveal()], ring(OLD), None):
        assert OLD.reveal() not in repr(Client("redis://host", key=key))
    with pytest.raises(ValueError, match="tlk1-"):
        Client("redis://host", key="s3cret")
