"""The ways to a model server: through a proxy, by TLS, with a key; and the ways that are not taken."""

from __future__ import annotations

import asyncio
import base64
import errno
import os
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import trustme
from pydantic import SecretStr
from tests.integration.proxy import Proxy, proxying
from tests.integration.servers import free_port

from tokenlane.benches.simulator import Simulator
from tokenlane.config.exit_codes import ConfigError
from tokenlane.config.settings.values import LaneSettings
from tokenlane.routing.contract.errors import ProviderDown
from tokenlane.routing.contract.requests import ChatRequest, Message
from tokenlane.worker.discovery.model_servers import probe_target
from tokenlane.worker.discovery.targets import Target
from tokenlane.worker.providers import default_registry

HOST = "models.example"
VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@pytest.fixture
async def proxy(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Proxy]:
    """A proxy that the environment names for http and https."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    async with proxying() as running:
        monkeypatch.setenv("HTTP_PROXY", running.url)
        monkeypatch.setenv("HTTPS_PROXY", running.url)
        yield running


@pytest.fixture
def authority() -> trustme.CA:
    """A private certificate authority."""
    return trustme.CA()


@pytest.fixture
async def secure(authority: trustme.CA) -> AsyncIterator[Simulator]:
    """A model server with a certificate of the private authority, for `HOST` and for 127.0.0.1."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(HOST, "127.0.0.1").configure_cert(context)
    async with Simulator(tokens=2, tls=context) as running:
        yield running


@pytest.fixture
def trusted(authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SSL_CERT_FILE names the private authority."""
    file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(file))
    monkeypatch.setenv("SSL_CERT_FILE", str(file))


def elsewhere(simulator: Simulator) -> str:
    """Its address under a name that only the proxy knows."""
    parts = urlsplit(simulator.url)
    return f"{parts.scheme}://{HOST}:{parts.port}"


async def ask(endpoint: str) -> str:
    lane = LaneSettings("gpu0", "openai", endpoint, api_key=SecretStr("sk-123"), connect_timeout_s=2)
    async with default_registry().create(lane) as provider:
        request = ChatRequest(role="r", messages=[Message(role="user", content="q")])
        return "".join([delta.text async for delta in provider.chat(request, "sim")])


async def why_not(endpoint: str) -> str:
    """What `probe` says of it."""
    return str((await probe_target(Target(LaneSettings("probe", "openai", endpoint)))).problem or "")


async def test_plain_http_through_a_proxy(proxy: Proxy) -> None:
    """HTTP_PROXY is asked, with its own credentials, and streams the answer."""
    async with Simulator(tokens=2) as simulator:
        assert await ask(elsewhere(simulator)) == "w0 w1 "
    (head,) = proxy.heads
    assert head.startswith(f"POST http://{HOST}:")
    assert f"Basic {base64.b64encode(b'user:word').decode()}" in head
    assert simulator.log[0].headers["Authorization"] == "Bearer sk-123"


async def test_tls_through_a_proxy(proxy: Proxy, secure: Simulator, trusted: None) -> None:
    """HTTPS_PROXY is asked for a tunnel: it sees the host, and neither key nor request."""
    assert await ask(elsewhere(secure)) == "w0 w1 "
    (head,) = proxy.heads
    assert head.startswith(f"CONNECT {HOST}:")
    assert "sk-123" not in head
    assert secure.log[0].headers["Authorization"] == "Bearer sk-123"
    assert "Proxy-Authorization" not in secure.log[0].headers


async def test_loopback_is_never_proxied(proxy: Proxy, secure: Simulator, trusted: None) -> None:
    """A model server on this host is asked directly, whatever the environment says."""
    async with Simulator(tokens=2) as simulator:
        assert await ask(simulator.url) == "w0 w1 "
    assert await ask(secure.url) == "w0 w1 "
    assert proxy.heads == []


async def test_no_proxy(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that NO_PROXY names is asked directly. 0.0.0.0 is this host, and no loopback address."""
    async with Simulator(host="0.0.0.0", tokens=2) as simulator:
        assert await ask(simulator.url) == "w0 w1 "
        assert len(proxy.heads) == 1
        monkeypatch.setenv("NO_PROXY", "other.example,0.0.0.0")
        assert await ask(simulator.url) == "w0 w1 "
        assert len(proxy.heads) == 1


async def test_a_private_authority(secure: Simulator, trusted: None) -> None:
    """SSL_CERT_FILE makes a certificate of a private authority good."""
    assert await ask(secure.url) == "w0 w1 "


async def test_an_unknown_authority(secure: Simulator) -> None:
    """Without it the certificate is refused, not worth another try, and no key is sent."""
    with pytest.raises(ProviderDown, match="SSL_CERT_FILE") as refused:
        await ask(secure.url)
    assert not refused.value.retryable
    assert len(secure.log) == 0


async def test_a_certificate_for_another_host(authority: trustme.CA, trusted: None) -> None:
    """A good certificate of another host is refused too."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(HOST).configure_cert(context)
    async with Simulator(tls=context) as simulator:
        with pytest.raises(ProviderDown, match="SSL_CERT_FILE"):
            await ask(simulator.url)
        assert len(simulator.log) == 0


@pytest.mark.parametrize(("content", "why"), [(None, os.strerror(errno.ENOENT)), (b"no certificate", "PEM")])
async def test_certificates_that_cannot_be_used(
    secure: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None, why: str
) -> None:
    """A file of no use is told with its variable, before anything is sent; plain http has no use for it."""
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_bytes(content)
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    with pytest.raises(ConfigError, match=f"SSL_CERT_FILE.*{file}.*{why}"):
        await ask(secure.url)
    assert why in await why_not(secure.url)
    async with Simulator(tokens=2) as plain:
        assert await ask(plain.url) == "w0 w1 "


async def test_tls_where_there_is_none() -> None:
    """A port of plain http is not said to have a bad certificate."""
    async with Simulator() as plain:
        url = plain.url.replace("http:", "https:")
        with pytest.raises(ProviderDown, match="http://") as refused:
            await ask(url)
        assert not refused.value.retryable
        assert "http://" in await why_not(url)


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_proxy_that_wants_to_know_who_asks(proxy: Proxy, monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
    """Its 407 is no answer of the model server's."""

    async def who(self: Proxy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        await writer.drain()

    monkeypatch.setattr(Proxy, "serve", who)
    with pytest.raises(ProviderDown, match=r"407.*HTTP_PROXY") as refused:
        await ask(f"{scheme}://{HOST}")
    assert not refused.value.retryable
    assert "407" in await why_not(f"{scheme}://{HOST}")


async def test_a_proxy_that_is_not_there(proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the proxy that does not answer, not the model server."""
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{free_port()}")
    assert "proxy to the model server" in await why_not(f"http://{HOST}")
