"""The HTTP client of one lane: its transport, its credentials, and what its failures mean.

httpx with aiohttp's transport costs a third to an eighth of the CPU per streamed chunk of httpx's own. That transport
reports some failures as the wrong httpx error (a refused connection as a connect time-out, and a connection dropped
after the request was sent as one too) and others not as httpx errors at all, so aiohttp's own error decides first.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from functools import partial
from http.cookiejar import CookieJar, DefaultCookiePolicy
from pathlib import Path
from typing import Any

import aiohttp
import httpx
from aiohttp.client_exceptions import UnixClientConnectorError
from httpx_aiohttp import AiohttpTransport
from httpx_aiohttp.transport import AiohttpResponseStream, map_aiohttp_exceptions
from tenacity import AsyncRetrying, retry_if_exception, stop_before_delay, wait_exponential

from tokenlane.config.exit_codes import ConfigError
from tokenlane.config.host.connection_errors import why_unreached
from tokenlane.config.host.socket_urls import socket_of
from tokenlane.config.settings.values import LaneSettings
from tokenlane.routing.contract.errors import LlmError, ProviderDown, Timeout
from tokenlane.worker.providers.errors.http_errors import PROXY_WANTS_A_USER

from .certificates import trusting
from .proxies import proxy_for, web_address

# Servers such as uvicorn close an idle connection after 5 s; a request sent at that moment would be lost.
KEEPALIVE_S = 4.0
CONNECT_RETRY_S = 0.9
_READER = "tokenlane.reader"
_AT_SOCKET = "http://localhost"
"""What a server at a Unix socket is told as its host."""

TRANSPORT_ERRORS = (
    httpx.HTTPError,
    httpx.InvalidURL,
    httpx.CookieConflict,
    httpx.StreamError,
    aiohttp.ClientError,
    OSError,
)
"""All that a request may raise apart from an `LlmError`; `transport_error` maps each."""

_REFUSED = "The back end cannot be reached: is it running, and is the lane's endpoint right?"
_SLOW_CONNECT = "The back end did not accept the connection in time: is it overloaded, or behind a firewall?"
_SLOW = "The back end took too long."
_LOST = "The connection to the back end was lost before the answer was whole."
_NONSENSE = "The back end broke the HTTP protocol: is the endpoint a model server?"
_PROXY = "The proxy to the back end refused or failed: check the proxy settings and NO_PROXY."
_ADDRESS = "The lane's endpoint is not a usable http://, https:// or unix:/// address."
_TLS = "No secure connection to the back end: its certificate was not accepted. SSL_CERT_FILE may name a private CA's."
_HANDSHAKE = "No secure connection to the back end: it refused the handshake. Does it want a certificate of ours?"
_LOCKED = "This worker's user may not open the back end's socket: check the permissions of it and of its directories."
_NO_TLS = "No secure connection to the back end: it does not speak TLS at that port. Is the endpoint one of http://?"

# The first that fits decides. (error, ours, message, worth another try)
_MEANINGS: tuple[tuple[type[Exception], type[LlmError], str, bool], ...] = (
    (aiohttp.ClientSSLError, ProviderDown, _TLS, False),
    (aiohttp.ConnectionTimeoutError, ProviderDown, _SLOW_CONNECT, True),
    (aiohttp.ServerTimeoutError, Timeout, _SLOW, True),
    (aiohttp.ClientHttpProxyError, ProviderDown, _PROXY, True),
    (aiohttp.ClientProxyConnectionError, ProviderDown, _PROXY, True),
    (aiohttp.ClientConnectorError, ProviderDown, _REFUSED, True),
    (aiohttp.InvalidURL, ProviderDown, _ADDRESS, False),
    (aiohttp.ClientResponseError, ProviderDown, _NONSENSE, False),
    (httpx.ConnectTimeout, ProviderDown, _SLOW_CONNECT, True),
    (httpx.TimeoutException, Timeout, _SLOW, True),
    (httpx.ConnectError, ProviderDown, _REFUSED, True),
    (httpx.ProxyError, ProviderDown, _PROXY, True),
    (httpx.UnsupportedProtocol, ProviderDown, _ADDRESS, False),
    (httpx.InvalidURL, ProviderDown, _ADDRESS, False),
    (httpx.LocalProtocolError, ProviderDown, _NONSENSE, False),
    (httpx.ProtocolError, ProviderDown, _NONSENSE, True),
    (httpx.DecodingError, ProviderDown, _NONSENSE, False),
    (TimeoutError, Timeout, _SLOW, True),
)


_NOT_REACHED = (
    aiohttp.ClientConnectorError,
    aiohttp.ConnectionTimeoutError,
    aiohttp.ClientHttpProxyError,
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.ProxyError,
)
"""What is raised before there is a connection to the back end."""


class LaneClient(httpx.AsyncClient):
    """A client with its transport at hand: `send` has no use for redirects, cookies and authentication in steps, which
    cost as much as sending."""

    def __init__(self, transport: Transport, **options: Any) -> None:
        super().__init__(transport=transport, **options)
        self.transport = transport


def open_client(lane: LaneSettings, endpoint: str) -> LaneClient:
    """The lane's client. Its base URL is `endpoint`, localhost's where that is a Unix socket. Redirects are not
    followed, so credentials stay with that host.

    Raises:
        ConfigError: endpoint, API key, proxy or SSL_CERT_FILE cannot be used.
    """
    socket = socket_of(endpoint) if endpoint.startswith("unix:///") else None
    url = web_address(endpoint if socket is None else _AT_SOCKET)
    if url is None or url.scheme not in ("http", "https"):
        raise ConfigError(f"Lane {lane.name!r}: {_ADDRESS}")
    if url.userinfo and lane.api_key is not None:
        raise ConfigError(f"Lane {lane.name!r}: the endpoint names a user, and there is an API key: give one of them.")
    tls = trusting(url.scheme)
    return LaneClient(
        base_url=url,
        headers={"Accept-Encoding": "identity", **_credentials(lane)},
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
        timeout=httpx.Timeout(None, connect=lane.connect_timeout_s),
        transport=Transport(client=lambda: _session(tls, socket), verify=tls, trust_env=False, proxy=proxy_for(url)),
        follow_redirects=False,
        trust_env=False,
    )


def _session(tls: ssl.SSLContext, socket: Path | None) -> aiohttp.ClientSession:
    """A session that keeps no cookies: a back end's could fill memory, and have no use."""
    # The worker's slots bound the connections; aiohttp's default of 100 would bound them again (0: no bound).
    connector = (
        aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEPALIVE_S, ssl=tls)
        if socket is None
        else aiohttp.UnixConnector(str(socket), limit=0, keepalive_timeout=KEEPALIVE_S)
    )
    return aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())


class Transport(AiohttpTransport):
    """Leaves aiohttp's reader of the body with the response: between it and `aiter_raw` lie four generators, which cost
    as much for each token as reading it."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        response = await super().handle_async_request(request)
        assert isinstance(response.stream, AiohttpResponseStream)
        response.extensions[_READER] = response.stream._aiohttp_response.content
        return response

    def poster(self, request: httpx.Request) -> Callable[[bytes], Awaitable[httpx.Response]]:
        """What `handle_async_request` does with POST requests that have another content than this one, and all else
        alike: what it asks aiohttp for is put together once."""
        if not isinstance(self.client, aiohttp.ClientSession):
            self.client = self.get_client()
        ask = partial(
            self.client.post,
            str(request.url),
            headers={name: value for name, value in request.headers.items() if name != "content-length"},
            allow_redirects=False,
            auto_decompress=False,
            timeout=aiohttp.ClientTimeout(sock_connect=request.extensions["timeout"]["connect"]),
            proxy=str(self.proxy.url) if self.proxy else None,
            proxy_headers=self.proxy.headers if self.proxy else None,
        )

        async def post(content: bytes) -> httpx.Response:
            try:
                answer = await ask(data=content)
            except Exception:
                with map_aiohttp_exceptions():
                    raise
            extensions = {_READER: answer.content}
            body = AiohttpResponseStream(answer)
            return httpx.Response(
                answer.status, headers=answer.raw_headers, stream=body, request=request, extensions=extensions
            )

        return post


@asynccontextmanager
async def reading(response: httpx.Response) -> AsyncIterator[Callable[[], Awaitable[bytes]]]:
    """Read a body: each call gives what has come since the last one, and nothing at the end.

    We ask for no compression; a server that compresses all the same is understood.
    """
    reader = response.extensions.get(_READER)
    if isinstance(reader, aiohttp.StreamReader) and "content-encoding" not in response.headers:
        yield reader.readany
        return
    chunks = response.aiter_bytes()
    assert isinstance(chunks, AsyncGenerator)
    async with aclosing(chunks):
        yield lambda: anext(chunks, b"")


def posting(client: LaneClient, path: str, headers: Mapping[str, str]) -> Callable[[bytes], Awaitable[httpx.Response]]:
    """Sends POST requests that differ in their content alone, as `send` does: putting URL and headers of each together,
    and apart again for aiohttp, costs half as much as all the rest."""
    post = client.transport.poster(client.build_request("POST", path, content=b"{}", headers=headers))
    return lambda content: _sent(partial(post, content))


async def send(
    client: LaneClient, request: httpx.Request, *, once: bool = False, connects_again: bool = True
) -> httpx.Response:
    """Send the request and return the response, its body still unread. Connecting is tried again for under a second.

    A connection that was kept and is closed without a word gets one more try: servers such as llama.cpp's close them
    after a stream, which the next request may race.

    Args:
        once: nothing is tried again.
        connects_again: False: who cannot be connected to is not asked again.

    Raises:
        ProviderDown: the body is packed in a way that is not unpacked.
    """
    ask = partial(client.transport.handle_async_request, request)
    response = await _sent(ask, once=once, connects_again=connects_again)
    response.request = request
    return response


async def _sent(
    ask: Callable[[], Awaitable[httpx.Response]], *, once: bool = False, connects_again: bool = True
) -> httpx.Response:
    response = await (ask() if once else _answered(ask, connects_again=connects_again))
    if coding := response.headers.get("content-encoding"):
        await _bound(response, coding)
    return response


async def _answered(ask: Callable[[], Awaitable[httpx.Response]], *, connects_again: bool) -> httpx.Response:
    try:
        return await ask()
    except TRANSPORT_ERRORS as error:
        if _hung_up(error):
            return await ask()
        if not (connects_again and _never_connected(error)):
            raise
    # Set up only when it is needed: it costs as much as sending.
    async for attempt in AsyncRetrying(
        retry=retry_if_exception(_never_connected),
        wait=wait_exponential(multiplier=0.05, max=0.4),
        stop=stop_before_delay(CONNECT_RETRY_S),
        reraise=True,
    ):
        with attempt:
            return await ask()
    raise AssertionError("tenacity reraises")


async def _bound(response: httpx.Response, coding: str) -> None:
    """See that unpacking takes little memory. Packed once, a body grows a thousandfold; packed twice, a millionfold."""
    if coding.strip().lower() not in ("gzip", "deflate", "identity"):
        await response.aclose()
        raise ProviderDown(
            "The back end, or a proxy before it, packed its answer though it was asked not to.", retryable=False
        )
    assert isinstance(response.stream, httpx.AsyncByteStream)
    response.stream = _Slices(response.stream)


class _Slices(httpx.AsyncByteStream):
    """A body in pieces so small that each is a megabyte at most when it is unpacked."""

    _BYTES = 1024

    def __init__(self, body: httpx.AsyncByteStream) -> None:
        self._body = body

    async def __aiter__(self) -> AsyncGenerator[bytes, None]:
        async for chunk in self._body:
            for start in range(0, len(chunk), self._BYTES):
                yield chunk[start : start + self._BYTES]

    async def aclose(self) -> None:
        await self._body.aclose()


def transport_error(error: Exception) -> LlmError:
    """What a failure of the transport means. Its own text goes into `detail`: it may quote what was received."""
    cause = error.__cause__ if isinstance(error.__cause__, aiohttp.ClientError) else error
    failure = _meaning(cause)
    if isinstance(cause, _NOT_REACHED):
        failure.back_end = "down"
    return failure


def _meaning(cause: BaseException) -> LlmError:
    if isinstance(cause, aiohttp.ClientHttpProxyError) and cause.status == 407:
        return ProviderDown(PROXY_WANTS_A_USER, retryable=False)
    if isinstance(cause, aiohttp.ClientConnectorSSLError) and isinstance(cause.os_error, ssl.SSLError):
        told = _HANDSHAKE if "ALERT" in (cause.os_error.reason or "") else _NO_TLS
        return ProviderDown(told, retryable=False, detail=str(cause)[:2048])
    if isinstance(cause, UnixClientConnectorError) and isinstance(cause.os_error, PermissionError):
        return ProviderDown(_LOCKED, detail=str(cause)[:2048])
    for kind, ours, message, retryable in _MEANINGS:
        if isinstance(cause, kind):
            message = _unreached(cause) or message
            return ours(message, retryable=retryable, detail=str(cause)[:2048])
    return ProviderDown(_LOST, detail=str(cause)[:2048])


def _unreached(cause: Exception) -> str:
    """What to say of a connection that was not made, where it is clear why."""
    why = why_unreached(cause.os_error) if isinstance(cause, aiohttp.ClientConnectorError) else ""
    if not why:
        return ""
    if isinstance(cause, aiohttp.ClientProxyConnectionError):
        return f"The proxy to the back end cannot be reached: {why} HTTPS_PROXY and HTTP_PROXY name it."
    return f"The back end cannot be reached: {why}"


def _credentials(lane: LaneSettings) -> dict[str, str]:
    if lane.api_key is None:
        return {}
    key = lane.api_key.get_secret_value()
    if not (key.isascii() and key.isprintable()):
        raise ConfigError(f"Lane {lane.name!r}: its API key holds characters that no HTTP header can carry.")
    return {"Authorization": f"Bearer {key}"}


def _never_connected(error: BaseException) -> bool:
    cause = error.__cause__
    if isinstance(cause, aiohttp.ClientError):
        return isinstance(cause, aiohttp.ClientConnectorError) and not isinstance(cause, aiohttp.ClientSSLError)
    return isinstance(error, httpx.ConnectError)


def _hung_up(error: BaseException) -> bool:
    """The connection was closed before anything of an answer came."""
    cause = error.__cause__
    if isinstance(cause, aiohttp.ClientConnectorError):
        return False
    return isinstance(cause, aiohttp.ServerDisconnectedError | aiohttp.ClientOSError)
