"""The servers that the store's suite runs over: fakeredis, which needs no server, the embedded Valkey, and Redis where
this machine has one installed."""

from __future__ import annotations

import shutil
import subprocess
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fakeredis import TcpFakeServer
from redis import Redis
from redis.backoff import ConstantBackoff
from redis.exceptions import ConnectionError as NotYet
from redis.retry import Retry

from tokenlane.routing.store.pool import Pool, connect

_REDIS = shutil.which("redis-server")


@contextmanager
def fakeredis() -> Iterator[str]:
    """A server in this process, which runs the scripts in lupa."""
    server = TcpFakeServer(("127.0.0.1", 0), server_type="valkey")
    serving = threading.Thread(target=server.serve_forever, name="fakeredis")
    serving.start()
    try:
        yield f"redis://127.0.0.1:{server.server_address[1]}/0"
    finally:
        server.shutdown()
        server.server_close()
        serving.join()


@contextmanager
def redis(directory: Path) -> Iterator[str]:
    """The Redis that this machine has installed, on a unix socket."""
    socket = directory / "redis.sock"
    assert _REDIS is not None
    server = subprocess.Popen([_REDIS, "--port", "0", "--unixsocket", str(socket), "--save", ""], cwd=directory)
    try:
        url = f"unix://{socket}?db=0"
        with Redis.from_url(url, retry=Retry(ConstantBackoff(0.02), 500), retry_on_error=[NotYet]) as starting:
            starting.ping()
        yield url
    finally:
        server.kill()
        server.wait()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Each test runs over all that there are, but for those that take long over a server written in Python."""
    if "store_server" in metafunc.fixturenames:
        servers = ["fakeredis", "valkey", *(["redis"] if _REDIS else [])]
        if metafunc.definition.get_closest_marker("many_commands"):
            servers.remove("fakeredis")
        metafunc.parametrize("store_server", servers, indirect=True, scope="session")


@pytest.fixture(scope="session")
def store_server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of one of the servers."""
    if request.param == "valkey":
        yield request.getfixturevalue("redis_server")
        return
    with fakeredis() if request.param == "fakeredis" else redis(tmp_path_factory.mktemp("redis")) as url:
        yield url


@pytest.fixture
def redis_url(store_server: str) -> str:
    """The URL of a server that holds nothing."""
    with Redis.from_url(store_server) as server:
        server.flushall()
    return store_server


@pytest.fixture
async def pool(redis_url: str) -> AsyncIterator[Pool]:
    """A pool that holds nothing."""
    async with connect(redis_url) as pool:
        yield pool
