"""A pool whose server Sentinels name: real ones that fail over, and fakes that answer what a test wants."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import trustme
from redis import Redis
from tests.integration import life
from tests.integration.farm import eventually, farm
from tests.integration.sentinels import PASSWORD, SENTINEL_PASSWORD, SERVICE, FakeSentinel, fake_sentinels, watched
from tests.integration.servers import free_port, valkey

from tokenlane.routing.contract.errors import PoolUnavailable
from tokenlane.routing.store.hub import open_hub
from tokenlane.routing.store.pool import connect
from tokenlane.routing.store.server import Server, Timings
from tokenlane.routing.watch.redis_health import examine_sentinels

QUICK = Timings(connect_s=1, command_s=2, sentinel_s=0.3, silence_s=0.1)


def run(port: int, *command: str) -> object:
    """Run a command at one server, past the Sentinels."""
    with Redis(port=port) as redis:
        return redis.execute_command(*command)


async def test_a_pool_survives_a_failover(tmp_path: Path) -> None:
    """Commands and subscriptions that are open when the primary is killed go on at the new primary."""
    async with watched(tmp_path) as servers, connect(servers.url) as pool, open_hub(pool) as hub:
        heard: list[bytes] = []
        await hub.subscribe("news", heard.append)
        accepted = await life.submit(pool)
        assert await pool.commands.ask("WAIT", 1, 5000) == 1
        await servers.fail_over()

        async def survives() -> bool:
            try:
                await pool.publish([("news", b"x")])
            except PoolUnavailable:
                return False
            return bool(heard)

        await eventually(survives)
        assert (await pool.beats.check("client", [accepted])).statuses[0].state == "waiting"


async def test_the_newest_configuration_wins(tmp_path: Path) -> None:
    """A Sentinel that was cut off still names the old primary; most of them know better."""
    async with valkey(tmp_path) as old, valkey(tmp_path) as new:
        fakes = FakeSentinel(old, epoch=9), FakeSentinel(new, epoch=10), FakeSentinel(new, epoch=10, silent=True)
        async with fake_sentinels(*fakes) as url, Server.of(url, QUICK).commands() as commands:
            await commands.ask("SET", "here", "1")
        assert (run(old, "EXISTS", "here"), run(new, "EXISTS", "here")) == (0, 1)


async def test_one_answer_serves_all_connections(tmp_path: Path) -> None:
    """Connections that are opened at the same time do not each ask the Sentinels."""
    async with valkey(tmp_path) as port:
        fake = FakeSentinel(port)
        async with fake_sentinels(fake) as url, Server.of(url, QUICK).commands() as commands:
            await asyncio.gather(*(commands.ask("PING") for _ in range(32)))
            assert fake.asked < 5


async def test_each_answer_serves_no_later_connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that is opened after the Sentinels answered asks again, even before the loop's clock moves on."""
    loop = asyncio.get_running_loop()
    now = loop.time()
    async with valkey(tmp_path) as old, valkey(tmp_path) as new:
        fake = FakeSentinel(old)
        async with fake_sentinels(fake) as url, Server.of(url, QUICK).commands() as commands:
            with monkeypatch.context() as frozen:
                frozen.setattr(loop, "time", lambda: now)
                await commands.ask("SET", "before", "1")
                await commands.connections.disconnect()
                fake.primary = new
                await commands.ask("SET", "after", "1")
        assert (run(old, "EXISTS", "before"), run(new, "EXISTS", "after")) == (1, 1)


async def test_a_demoted_primary_is_left(tmp_path: Path) -> None:
    """A connection that gets READONLY asks the Sentinels again, and the write reaches the new primary."""
    async with valkey(tmp_path) as old, valkey(tmp_path) as new:
        fake = FakeSentinel(old)
        async with fake_sentinels(fake) as url, Server.of(url, QUICK).commands() as commands:
            await asyncio.gather(*(commands.ask("SET", "before", "1") for _ in range(4)))
            run(old, "REPLICAOF", "127.0.0.1", str(new))
            fake.primary = new
            await commands.ask("SET", "after", "1")
            assert run(new, "EXISTS", "after") == 1
            assert await commands.ask("ROLE") == [b"master", *(await commands.ask("ROLE"))[1:]]  # type: ignore[index]


async def test_a_script_is_refused_while_only_a_replica_is_named(tmp_path: Path) -> None:
    """While the Sentinels still name a server that has become a replica, commands fail and may be tried again."""
    async with valkey(tmp_path) as primary, valkey(tmp_path, "--replicaof", "127.0.0.1", str(primary)) as replica:
        async with fake_sentinels(FakeSentinel(replica)) as url:
            with pytest.raises(PoolUnavailable) as refused:
                async with connect(url):
                    pass
        assert refused.value.retryable
        assert f"127.0.0.1:{replica}" in str(refused.value)


async def test_a_primary_without_replicas_is_asked_about(tmp_path: Path) -> None:
    """A server that refuses writes because its replicas are gone may have been replaced: the next command finds out."""
    async with valkey(tmp_path, "--min-replicas-to-write", "1") as old, valkey(tmp_path) as new:
        fake = FakeSentinel(old)
        async with fake_sentinels(fake) as url, Server.of(url, QUICK).commands() as commands:
            with pytest.raises(PoolUnavailable) as refused:
                await commands.ask("SET", "here", "1")
            assert refused.value.retryable
            fake.primary = new
            await commands.ask("SET", "here", "1")
        assert run(new, "EXISTS", "here") == 1


async def test_tls_to_sentinels_and_primary(tmp_path: Path) -> None:
    """One option names the certificate authority for both; without it, the message says what is missing."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca"))
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(tls)
    async with valkey(tmp_path) as plain, tls_proxy(plain, tls) as port:
        async with fake_sentinels(FakeSentinel(port), tls=tls) as url:
            async with Server.of(f"{url}?ssl_ca_certs={tmp_path}/ca", QUICK).commands() as commands:
                await commands.ask("SET", "here", "1")
            with pytest.raises(PoolUnavailable) as refused:
                await Server.of(url, QUICK).greet()
            assert "?ssl_ca_certs=PATH" in str(refused.value)
        assert run(plain, "EXISTS", "here") == 1


@asynccontextmanager
async def tls_proxy(port: int, tls: ssl.SSLContext) -> AsyncIterator[int]:
    """A server that ends TLS and passes all on to a port, since the tests' Redis server has no TLS; its port."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        back, forth = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(copy(reader, forth), copy(back, writer))

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while part := await reader.read(65536):
                writer.write(part)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", ssl=tls) as server:
        yield server.sockets[0].getsockname()[1]


async def test_the_hub_follows_the_commands(tmp_path: Path) -> None:
    """A hub whose old primary lives on, cut off from the Sentinels, moves once a command has found the new one."""
    async with valkey(tmp_path) as old, valkey(tmp_path) as new:
        fake = FakeSentinel(old)
        async with fake_sentinels(fake) as url:
            server = Server.of(url, QUICK)
            async with connect(server) as pool, open_hub(pool) as hub:
                heard: list[bytes] = []
                await hub.subscribe("news", heard.append)
                fake.primary = new
                await asyncio.to_thread(run, old, "CLIENT", "KILL", "TYPE", "normal")

                async def hears() -> bool:
                    await pool.publish([("news", b"x")])
                    return bool(heard)

                await eventually(hears)
                assert run(new, "PUBSUB", "NUMSUB", "news") == [b"news", 1]


async def test_a_frozen_primary_that_wakes_is_left(tmp_path: Path) -> None:
    """While it sleeps, commands move to the new primary; they stay there when it wakes, before it knows better."""
    async with watched(tmp_path) as servers:
        async with connect(Server.of(servers.url, QUICK)) as pool:
            await life.submit(pool)
            old, new = servers.primary, servers.replica
            old.freeze()
            try:
                await servers.named(new.port)

                async def answers() -> bool:
                    try:
                        return bool(await life.submit(pool))
                    except PoolUnavailable:
                        return False

                await eventually(answers)
            finally:
                old.thaw()
            accepted = await life.submit(pool)
            assert await new.ask("EXISTS", f"{life.PREFIX}request:{accepted}") == 1


@pytest.mark.parametrize(
    "reply",
    [
        b"+OK\r\n",
        b":1\r\n",
        b"*2\r\n$1\r\nh\r\n$1\r\nx\r\n",
        b"*2\r\n*-1\r\n*-1\r\n",
        b"HTTP/1.1 400\r\n\r\n",
        b"-ERR odd\r\n",
    ],
)
async def test_a_malformed_reply_names_no_primary(reply: bytes) -> None:
    """Whatever listens at a Sentinel's address, the message says where and shows nothing of the reply's form."""
    fake = FakeSentinel(1, answers=reply)
    async with fake_sentinels(fake) as url:
        with pytest.raises(PoolUnavailable) as wrong:
            await Server.of(url, QUICK).greet()
        assert f"127.0.0.1:{fake.port}" in str(wrong.value)


async def test_wrong_addresses_passwords_and_services_are_explained(tmp_path: Path) -> None:
    """Each mistake has its own message, which names the Sentinel and no password."""
    async with watched(tmp_path, sentinels=1) as servers, valkey(tmp_path) as plain:
        (sentinel,) = servers.sentinels
        here, user = f"127.0.0.1:{sentinel.port}", f"redis+sentinel://:{PASSWORD}@"
        passwords = f"sentinel_password={SENTINEL_PASSWORD}"
        nobody = free_port()
        for url, names in (
            (f"{user}{here}/{SERVICE}", (here, "sentinel_password=PASSWORD")),
            (f"{user}{here}/{SERVICE}?sentinel_password=no", (here, "sentinel_username")),
            (f"{user}{here}/nosuch?{passwords}", (here, "'nosuch'")),
            (f"{user}127.0.0.1:{plain}/{SERVICE}", (f"127.0.0.1:{plain}", "26379")),
            (f"{user}127.0.0.1:{nobody}/{SERVICE}?{passwords}", (f"no Sentinel answers at 127.0.0.1:{nobody}",)),
            (
                f"redis+sentinel://{here}/{SERVICE}?{passwords}",
                (f"127.0.0.1:{servers.primary.port}", "PASSWORD"),
            ),
            (f"redis+sentinel://:no@{here}/{SERVICE}?{passwords}", (f"127.0.0.1:{servers.primary.port}",)),
            (f"{user}{here}/{SERVICE}?{passwords}&nosuch=1", ("options",)),
        ):
            with pytest.raises(PoolUnavailable) as wrong:
                async with connect(url):
                    pass
            for name in names:
                assert name in str(wrong.value), url
            assert PASSWORD not in str(wrong.value)
            assert SENTINEL_PASSWORD not in str(wrong.value)


async def test_doctor_and_status_show_the_sentinels(tmp_path: Path) -> None:
    """Both name the primary and how many Sentinels agree. One that is down is a warning, two of three are a failure."""
    pytest.importorskip("typer", reason="an agent's install has no commands")
    async with watched(tmp_path) as servers, connect(servers.url) as pool:
        where = f"127.0.0.1:{servers.primary.port}"
        (found,) = await examine_sentinels(pool)
        assert (found.severity, where in found.observed, "3 of 3" in found.observed) == ("ok", True, True)
        async with farm(tmp_path, servers.url) as commands:
            ended = await (await commands.tokenlane("status", "--json")).ended()
            assert json.loads(ended.out)["primary"] == where
            for verb in ("doctor", "status"):
                ended = await (await commands.tokenlane(verb)).ended()
                assert where in ended.out
                assert "3 of 3" in ended.out
                assert PASSWORD not in ended.out + ended.error
                assert SENTINEL_PASSWORD not in ended.out + ended.error
        for down, severity in enumerate(("ok", "fail"), 1):
            await servers.sentinels[-down].kill()
            whole, *each = await examine_sentinels(pool)
            assert whole.severity == severity
            assert {finding.subject for finding in each} == {
                f"127.0.0.1:{sentinel.port}" for sentinel in servers.sentinels[-down:]
            }
            assert {finding.severity for finding in each} == {"warn"}


async def test_a_sentinel_that_disagrees_is_named(tmp_path: Path) -> None:
    """So is a pool without a replica, which no failover can save."""
    async with valkey(tmp_path) as port:
        fakes = FakeSentinel(port, epoch=2), FakeSentinel(port, epoch=2), FakeSentinel(1, epoch=1)
        async with fake_sentinels(*fakes) as url, connect(Server.of(url, QUICK)) as pool:
            whole, other = await examine_sentinels(pool)
    assert (whole.severity, "replica" in whole.observed) == ("warn", True)
    assert (other.severity, other.subject, "127.0.0.1:1" in other.observed) == (
        "warn",
        f"127.0.0.1:{fakes[2].port}",
        True,
    )
