"""Connecting: every way in which there is no pool is one error that says what to do and tells no secret."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from threading import Thread

import pytest
import trustme
from redis import exceptions as redis_errors
from redis.asyncio import Redis
from redis.asyncio.connection import parse_url
from tests.integration import life
from tests.integration.life import raw
from tests.integration.servers import free_port, valkey

from tokenlane.routing.contract.errors import PoolUnavailable, QueueFull
from tokenlane.routing.store.beats import CheckReply
from tokenlane.routing.store.keys import Keys
from tokenlane.routing.store.pool import Pool, connect
from tokenlane.routing.store.server import Server, Timings

SECRET = "s3cr3t-pass"
Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def refusal(url: str, timings: Timings | None = None) -> str:
    """What the error of connecting says."""
    with pytest.raises(PoolUnavailable) as refused:
        async with connect(Server.of(url, timings or Timings())):
            pass
    assert SECRET not in repr(refused.value) + str(refused.value) + str(refused.value.report())
    return str(refused.value)


@asynccontextmanager
async def listening(answer: Answer, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """Something that listens on loopback; its port."""
    connections: set[asyncio.StreamWriter] = set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.add(writer)
        await answer(reader, writer)

    server = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for writer in connections:
            writer.close()
        await server.wait_closed()


async def http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """What a web server says to Redis commands."""
    await reader.readline()
    writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
    await writer.drain()


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Nothing is ever answered."""


async def closing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """The connection is closed at once."""
    writer.close()


async def test_no_server_listens() -> None:
    """The error names the address, and how to start a server."""
    port = free_port()
    said = await refusal(f"redis://:{SECRET}@127.0.0.1:{port}/0")
    assert f"127.0.0.1:{port}" in said
    assert "tokenlane up" in said
    assert "nothing listens" in said


async def test_another_protocol() -> None:
    """A web server at the port is told apart from a server that is not there."""
    async with listening(http) as port:
        assert "is not a Redis server" in await refusal(f"redis://127.0.0.1:{port}")


@pytest.mark.parametrize(
    ("answer", "said"),
    [(silent, "accepts connections, but does not answer within 0.2 s"), (closing, "closed the connection")],
)
async def test_no_answer(answer: Answer, said: str) -> None:
    """What accepts and does not answer is given up after a bounded time; what hangs up is told apart."""
    async with listening(answer) as port, asyncio.timeout(10):
        assert said in await refusal(f"redis://:{SECRET}@127.0.0.1:{port}", Timings(command_s=0.2))


@pytest.mark.parametrize("credentials", ["", f":{SECRET}@"])
async def test_a_socket_that_does_not_answer(credentials: str, tmp_path: Path) -> None:
    """Without and with a handshake, a server that accepts a connection and never replies is not called absent."""
    opened: list[asyncio.StreamWriter] = []
    server = await asyncio.start_unix_server(lambda _, writer: opened.append(writer), tmp_path / "s")
    async with server:
        said = await refusal(f"unix://{credentials}{tmp_path / 's'}", Timings(command_s=0.2))
        for writer in opened:
            writer.close()
    assert "accepts connections, but does not answer" in said


async def test_passwords(tmp_path: Path) -> None:
    """A missing or wrong password is reported as such; the right password connects."""
    async with valkey(tmp_path, "--requirepass", SECRET) as port:
        for credentials in ("", ":wrong@", "nobody:wrong@"):
            said = await refusal(f"redis://{credentials}127.0.0.1:{port}")
            assert ("user and password" if credentials else "password") in said
            assert "wrong" not in said
        async with connect(f"redis://:{SECRET}@127.0.0.1:{port}") as pool:
            await life.submit(pool)
            assert SECRET not in repr(pool)


@contextmanager
def asks_for_a_certificate(own: Path) -> Iterator[int]:
    """A server that lets in who has one, as Redis does by TLS unless it is told otherwise; asyncio's sends no alert."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(own)
    tls.verify_mode, tls.maximum_version = ssl.CERT_REQUIRED, ssl.TLSVersion.TLSv1_2

    def serve() -> None:
        with suppress(OSError):
            while True:
                client, _ = server.accept()
                with client, suppress(ssl.SSLError), tls.wrap_socket(client, server_side=True):
                    pass

    with socket.create_server(("127.0.0.1", 0)) as server:
        serving = Thread(target=serve)
        serving.start()
        try:
            yield server.getsockname()[1]
        finally:
            server.shutdown(socket.SHUT_RDWR)
    serving.join()


async def test_tls(tmp_path: Path) -> None:
    """What keeps TLS from working is said to be that, with what to check; a server that is not there is told apart."""
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    authority.cert_pem.write_to_path(str(tmp_path / "ca"))
    certificate.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "server"))
    (tmp_path / "rubbish").write_text("x")
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(tmp_path / "server")

    async def said(port: int, files: str = "") -> str:
        return await refusal(f"rediss://:{SECRET}@127.0.0.1:{port}{files}", Timings(command_s=0.5))

    with asks_for_a_certificate(tmp_path / "server") as guarded:
        told = await said(guarded, f"?ssl_ca_certs={tmp_path}/ca")
        assert "refuses the TLS handshake" in told
        assert "ssl_certfile=PATH" in told
    async with valkey(tmp_path) as plain, listening(closing) as shut, listening(http, tls) as web:
        for port in (plain, shut):
            assert "No Redis server answers over TLS" in await said(port)
        told = await said(web)
        assert "certificate" in told
        assert "?ssl_ca_certs=PATH" in told
        assert "is not a Redis server" in await said(web, f"?ssl_ca_certs={tmp_path}/ca")
        for file in map(tmp_path.joinpath, ("none", "rubbish", ".", "/dev/zero")):
            for query in (f"ssl_ca_certs={file}", f"ssl_certfile={file}&ssl_keyfile={file}"):
                told = await said(web, f"?{query}")
                assert "over TLS" in told
                assert "check the files" in told
    assert "No Redis server answers at" in await said(free_port())


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost:6379",
        f"http://:{SECRET}@host",
        f"redis://:{SECRET}@host:port",
        f"redis://:{SECRET}@host:99999",
        f"redis://:{SECRET}@host?db=x",
        f"redis://host?unknown=1&password={SECRET}",
        f"rediss://:{SECRET}@host?ssl_cert_reqs=sometimes",
        f"redis://:{SECRET}@[::1",
    ],
)
async def test_bad_urls(url: str) -> None:
    """A string that is no Redis URL is reported before any connection is tried."""
    assert "redis://HOST:PORT" in await refusal(url)


async def test_a_host_that_cannot_be(tmp_path: Path) -> None:
    """Names that resolve to nothing, and sockets that are not there, are servers that do not answer."""
    for url in ("redis://no..host:1", f"unix://{tmp_path}/no.sock", f"unix://{tmp_path}/{'x' * 200}.sock"):
        assert "No Redis server answers" in await refusal(url)


async def test_a_database_number_that_the_server_does_not_have(tmp_path: Path) -> None:
    """The error says so."""
    async with valkey(tmp_path) as port:
        assert "does not have the database" in await refusal(f"redis://127.0.0.1:{port}/99")


@pytest.mark.parametrize("form", ["path", "query", "socket"])
async def test_channels_carry_the_database(tmp_path: Path, form: str) -> None:
    """The database of the URL is the pool's, and part of its channels, which all databases share."""
    socket = tmp_path / "s"
    async with valkey(tmp_path, "--unixsocket", str(socket)) as port:
        urls = {
            "path": f"redis://127.0.0.1:{port}/1",
            "query": f"redis://127.0.0.1:{port}?db=1",
            "socket": f"unix://{socket}?db=1",
        }
        async with connect(urls[form]) as pool, connect(f"redis://127.0.0.1:{port}") as other:
            assert pool.keys.doorbell == "{main}:1:doorbell"
            assert other.keys.doorbell == "{main}:0:doorbell"
            async with raw(other).pubsub() as mine, raw(pool).pubsub() as theirs:
                await mine.psubscribe("{main}:0:*")
                await theirs.psubscribe("{main}:1:*")
                request_id = await life.submit(pool)
                await pool.requests.cancel(request_id)
                heard = [await theirs.get_message(timeout=5) for _ in range(3)]
                assert [it["channel"].decode() for it in heard if it and it["type"] == "pmessage"] == [
                    "{main}:1:doorbell",
                    f"{{main}}:1:deltas:{request_id}",
                ]
                assert await raw(other).dbsize() == 0
                await mine.get_message(timeout=5)
                await mine.ping()
                answer = await mine.get_message(timeout=5)
                assert answer is not None
                assert answer["type"] == "pong"


async def test_two_pools_in_one_database(redis_url: str) -> None:
    """Pools of different names share nothing."""
    async with connect(redis_url) as main, connect(redis_url, pool="other") as other:
        request_id = await life.submit(main)
        assert (await other.beats.check("client1", [request_id])).statuses[0].state == "missing"
        assert (await other.survey()).heads == ()


async def test_a_server_that_is_away_is_told_in_every_call() -> None:
    """When the server does not answer, every method raises PoolUnavailable."""
    async with Server.of(f"redis://127.0.0.1:{free_port()}").commands(retries=0) as commands:
        await _fails_in_every_call(Pool(commands, Keys()))


async def _fails_in_every_call(pool: Pool) -> None:
    asked = life.Asked("0" * 32, 1)
    calls: list[Awaitable[object]] = [
        pool.requests.submit(life.envelope(), b""),
        pool.requests.start(asked.id, 1, "w"),
        pool.beats.renew("w", life.LANE, [], accepts_new_work=True),
        pool.requests.requeue(asked.id, 1, "w"),
        life.finish(pool, asked),
        pool.requests.cancel(asked.id),
        pool.beats.sweep("host/1"),
        pool.beats.check("client1"),
        pool.survey(),
        pool.beats.leave("client1"),
        pool.policies.read(),
        pool.publish([("channel", b"")]),
    ]
    for call in calls:
        with pytest.raises(PoolUnavailable):
            await call


async def test_more_commands_at_once_than_connections(pool: Pool) -> None:
    """All are answered, whichever are cancelled meanwhile, and every connection is free afterwards."""
    for _ in range(3):
        asked = [asyncio.create_task(pool.beats.check("client1")) for _ in range(200)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        for task in asked[::3]:
            task.cancel()
        answers = await asyncio.gather(*asked, return_exceptions=True)
        for number, answer in enumerate(answers):
            assert isinstance(answer, CheckReply if number % 3 else asyncio.CancelledError), answer
    connections = pool.commands.connections
    assert not connections._in_use_connections
    assert len(connections._available_connections) <= connections.max_connections


async def test_connections_cut_while_they_greet(redis_url: str) -> None:
    """A command rides over connections that are cut as soon as they are made, before anything was asked on them."""
    to_cut = [False, True, True, True]
    cut = 0

    async def gate(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal cut
        said = await reader.read(65536)
        if to_cut and to_cut.pop(0):
            cut += 1
            writer.transport.abort()
            return
        answers, asks = await asyncio.open_unix_connection(parse_url(redis_url)["path"])
        asks.write(said)
        await asyncio.gather(_pour(reader, asks), _pour(answers, writer))

    async with listening(gate) as port, connect(f"redis://127.0.0.1:{port}") as pool:
        await pool.survey()
        assert cut == 3


async def _pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while said := await reader.read(65536):
        writer.write(said)
    writer.close()


def all_redis_errors() -> list[type[redis_errors.RedisError]]:
    """Every kind of error redis-py raises."""
    found = [it for it in vars(redis_errors).values() if isinstance(it, type)]
    return [it for it in found if issubclass(it, redis_errors.RedisError)]


@pytest.mark.parametrize("kind", [*all_redis_errors(), OSError, ConnectionResetError, TimeoutError])
def test_every_redis_error_is_translated(kind: type[redis_errors.RedisError | OSError]) -> None:
    """Whatever redis-py raises is one of ours, and names the place without its password."""
    raised = kind("12182 127.0.0.1:1")
    ours = Server.of(f"redis://:{SECRET}@host:1").translate_error(raised)
    assert isinstance(ours, QueueFull if kind is redis_errors.OutOfMemoryError else PoolUnavailable)
    assert "redis://:***@host:1" in str(ours)
    assert SECRET not in str(ours)


async def test_disconnecting_leaves_no_connection(redis_url: str) -> None:
    """After the block the server has no connection of ours."""
    async with Redis.from_url(redis_url) as other:
        async with connect(redis_url) as pool:
            await asyncio.gather(*(pool.survey() for _ in range(5)))
        async with asyncio.timeout(5):
            while len(await other.client_list()) > 1:
                await asyncio.sleep(0.01)
