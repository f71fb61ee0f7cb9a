"""The embedded server that keeps what it holds, and the one that listens for other machines."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
from pathlib import Path

import pytest
from redis.asyncio import Redis
from tests.integration import life
from tests.integration.servers import free_port
from tests.processes import pid_of

from tokenlane.config.host import embedded_server as embedded
from tokenlane.config.host.embedded_server import EmbeddedServer, EmbeddedServerFailed
from tokenlane.config.host.pool_key_files import KeyRing, read_key_file
from tokenlane.routing.contract.errors import PoolUnavailable
from tokenlane.routing.store.pool import Pool, connect


async def kill(server: EmbeddedServer) -> None:
    """Kill the server itself, and wait for its end."""
    os.kill(pid_of(server), signal.SIGKILL)
    await server.ended()


async def unwritten(pool: Pool) -> int:
    """Bytes that the server has not written yet, because the disk is busy with what it wrote before."""
    found = await life.raw(pool).info("persistence")
    return int(found["aof_buffer_length"])


@pytest.mark.parametrize("how", ["stop", "kill", "revive"])
@pytest.mark.kills
async def test_accepted_requests_survive(tmp_path: Path, how: str) -> None:
    """What a pool accepted is there after the server was stopped or killed, sealed with the same key."""
    server = EmbeddedServer(tmp_path / "redis", keeps=True)
    await server.start()
    try:
        async with connect(server.url, keys=KeyRing(), unseals=True) as pool:
            request_id, key_id = await life.submit(pool), pool.keychain.key_id
            async with asyncio.timeout(10):
                while await unwritten(pool):
                    await asyncio.sleep(0.01)
        if how != "stop":
            await kill(server)
        if how == "revive":
            await server.revive()
        else:
            await server.stop()
            await server.start()
        async with connect(server.url, keys=KeyRing(), unseals=True) as pool:
            assert await life.state_of(pool, request_id) == "waiting"
            assert pool.keychain.key_id == key_id
            asked = await life.running(pool, request_id)
            assert asked.id == request_id
            config = await life.raw(pool).config_get("append*", "slowlog-log-slower-than")
            assert (config["appendonly"], config["appendfsync"]) == ("yes", "everysec")
            assert config["slowlog-log-slower-than"] == "-1"
    finally:
        await server.stop()


async def test_a_place_too_deep_for_a_socket_keeps_too(tmp_path: Path) -> None:
    """Where the socket has to be elsewhere, data and key stay in the directory, and the key is found at the socket."""
    directory = tmp_path / ("long" * 40)
    found = []
    for _ in range(2):
        async with EmbeddedServer(directory, keeps=True) as server:
            assert not server.socket.is_relative_to(tmp_path)
            async with connect(server.url, keys=KeyRing(), unseals=True) as pool:
                await life.submit(pool)
                found.append((pool.keychain.key_id, await life.raw(pool).xlen(f"{life.PREFIX}role:{life.ROLE}")))
    key_id = read_key_file(directory / "pool.key").ids[0]
    assert found == [(key_id, 1), (key_id, 2)]


def log_file(directory: Path) -> Path:
    """The part of the append-only file that grows."""
    (found,) = (directory / "appendonlydir").glob("*.incr.aof")
    return found


async def test_a_torn_end_is_cut_off(tmp_path: Path) -> None:
    """A last command half written, as a power cut leaves it, costs that command only."""
    async with EmbeddedServer(tmp_path, keeps=True) as server, Redis.from_url(server.url) as redis:
        await redis.set("first", 1)
        await redis.set("second", "x" * 100)
    file = log_file(tmp_path)
    file.write_bytes(file.read_bytes()[:-50])
    async with EmbeddedServer(tmp_path, keeps=True) as server, Redis.from_url(server.url) as redis:
        assert await redis.get("first") == b"1"
        assert await redis.get("second") is None


async def test_data_that_cannot_be_read(tmp_path: Path) -> None:
    """A file with nonsense in the middle ends the start, and the error says what to move away; that helps."""
    async with EmbeddedServer(tmp_path, keeps=True) as server, Redis.from_url(server.url) as redis:
        await redis.set("first", 1)
        await redis.set("second", 2)
    file = log_file(tmp_path)
    file.write_bytes(b"nonsense" + file.read_bytes()[8:])
    with pytest.raises(EmbeddedServerFailed, match=str(tmp_path / "appendonlydir")) as raised:
        await EmbeddedServer(tmp_path, keeps=True).start()
    assert "`tokenlane policy apply FILE`" in str(raised.value)
    (tmp_path / "appendonlydir").rename(tmp_path / "away")
    async with EmbeddedServer(tmp_path, keeps=True) as server, Redis.from_url(server.url) as redis:
        assert await redis.dbsize() == 0


async def test_one_server_a_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second server cannot have the directory while the first lives, even where the socket is elsewhere."""
    monkeypatch.setattr(embedded, "_STOP_TIMEOUT_S", 0.1)
    directory = tmp_path / ("long" * 40)
    async with EmbeddedServer(directory, keeps=True):
        with pytest.raises(EmbeddedServerFailed, match=str(directory)):
            await EmbeddedServer(directory, keeps=True).start()
    async with EmbeddedServer(directory, keeps=True):
        pass


async def test_listening_takes_a_password(tmp_path: Path) -> None:
    """Who listens for others has a password, the same after a restart, in private files; nobody gets in without it."""
    port, urls = free_port(), []
    for _ in range(2):
        async with EmbeddedServer(tmp_path, keeps=True, listen=("127.0.0.1", port)) as server:
            urls.append(server.public_url("127.0.0.1"))
            for url in (server.url, urls[-1]):
                async with Redis.from_url(url) as redis:
                    assert await redis.ping()
            for url in (f"redis://127.0.0.1:{port}", f"unix://{server.socket}"):
                with pytest.raises(PoolUnavailable, match="redis://:PASSWORD@HOST"):
                    async with connect(url):
                        pass
            for name in ("password", "redis.conf", "pool.key"):
                assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600
    assert urls[0] == urls[1]
    assert not (tmp_path / "redis.conf").exists()


async def test_without_listening_there_is_no_port(tmp_path: Path) -> None:
    """Unless told so, the server listens on its socket only."""
    async with EmbeddedServer(tmp_path, keeps=True) as server, Redis.from_url(server.url) as redis:
        assert await redis.config_get("port") == {"port": "0"}
