"""The HTTP client of one lane: its session, its credentials, and what its failures mean."""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path

import aiohttp
from aiohttp.client_exceptions import UnixClientConnectorError
from tenacity import AsyncRetrying, retry_if_exception, stop_before_delay, wait_exponential

from tokenlane.config.exit_codes import ConfigError
from tokenlane.config.host.connection_errors import why_unreached
from tokenlane.config.host.socket_urls import socket_of
from tokenlane.config.settings.values import LaneSettings
from tokenlane.routing.contract.errors import LlmError, ProviderDown, Timeout
from tokenlane.worker.providers.errors.http_errors import PROXY_WANTS_A_USER

from .certificates import trusting
from .proxies import proxy_for, web_address

KEEPALIVE_S = 4.0
"""Servers such as uvicorn close an idle connection after 5 s; a request sent at that moment would be lost."""
CONNECT_RETRY_S = 0.9
_AT_SOCKET = "http://localhost"
"""The address, and so the `Host` header, of requests to a server at a Unix socket."""
_CODINGS = ("", "identity", "gzip", "deflate")

TRANSPORT_ERRORS = (aiohttp.ClientError, OSError)
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
    (aiohttp.ClientHttpProxyError, ProviderDown, _PROXY, True),
    (aiohttp.ClientProxyConnectionError, ProviderDown, _PROXY, True),
    (aiohttp.ClientConnectorError, ProviderDown, _REFUSED, True),
    (aiohttp.InvalidURL, ProviderDown, _ADDRESS, False),
    (aiohttp.ClientResponseError, ProviderDown, _NONSENSE, False),
    (TimeoutError, Timeout, _SLOW, True),
    (Exception, ProviderDown, _LOST, True),
)
_NOT_REACHED = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.ClientHttpProxyError)
"""Raised before there is a connection to the back end."""


class LaneClient:
    """Sends the requests of one lane. It follows no redirects, so credentials stay with the lane's host.

    Args:
        endpoint: what the paths of requests are appended to.

    Raises:
        ConfigError: endpoint, API key, proxy or SSL_CERT_FILE cannot be used.
    """

    def __init__(self, lane: LaneSettings, endpoint: str) -> None:
        socket = socket_of(endpoint) if endpoint.startswith("unix:///") else None
        url = web_address(endpoint if socket is None else _AT_SOCKET)
        if url is None or url.scheme not in ("http", "https"):
            raise ConfigError(f"Lane {lane.name!r}: {_ADDRESS}")
        if "@" in url.netloc and lane.api_key is not None:
            raise ConfigError(
                f"Lane {lane.name!r}: the endpoint names a user, and there is an API key: give one of them."
            )
        headers = {"Accept-Encoding": "identity", **_credentials(lane)}
        self._base = url.geturl().rstrip("/")
        self._proxy = proxy_for(url)
        self._open = partial(_session, headers, lane.connect_timeout_s, trusting(url.scheme), socket)
        self._session: aiohttp.ClientSession | None = None

    async def aclose(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()

    async def send(
        self,
        method: str,
        path: str,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        connects_again: bool = True,
    ) -> aiohttp.ClientResponse:
        """Send a request and return the response, its body still unread. Connecting is tried again for under a second.

        A kept connection that the server closes without a word gets one more try: servers such as llama.cpp's close
        them after a stream, which the next request may race.

        Args:
            connects_again: False: a server that cannot be connected to is not asked again.

        Raises:
            ProviderDown: the body is packed in a way that is not unpacked.
        """
        session = self._session = self._session or self._open()  # not before: it belongs to the running event loop
        url, proxy = f"{self._base}{path}", self._proxy

        async def ask() -> aiohttp.ClientResponse:
            return await session.request(method, url, data=content, headers=headers, allow_redirects=False, proxy=proxy)

        try:
            response = await ask()
        except aiohttp.ClientError as error:
            if _hung_up(error):
                response = await ask()
            elif connects_again and _never_connected(error):
                response = await _connecting(ask)
            else:
                raise
        if response.headers.get("content-encoding", "").strip().lower() not in _CODINGS:
            response.close()
            raise ProviderDown(
                "The back end, or a proxy before it, packed its answer though it was asked not to.", retryable=False
            )
        return response


async def read_body(response: aiohttp.ClientResponse, limit: int) -> bytes:
    """The body up to `limit` bytes."""
    body = b""
    while len(body) < limit and (chunk := await response.content.readany()):
        body += chunk
    return body[:limit]


def transport_error(error: Exception) -> LlmError:
    """What a failure of the transport means. Its own text goes into `detail`: it may quote what was received."""
    failure = _meaning(error)
    failure.detail = str(error)[:2048]
    if isinstance(error, _NOT_REACHED):
        failure.back_end = "down"
    return failure


def _meaning(error: Exception) -> LlmError:
    if isinstance(error, aiohttp.ClientHttpProxyError) and error.status == 407:
        return ProviderDown(PROXY_WANTS_A_USER, retryable=False)
    if isinstance(error, aiohttp.ClientConnectorSSLError) and isinstance(error.os_error, ssl.SSLError):
        refused = "ALERT" in (error.os_error.reason or "")
        return ProviderDown(_HANDSHAKE if refused else _NO_TLS, retryable=False)
    if isinstance(error, UnixClientConnectorError) and isinstance(error.os_error, PermissionError):
        return ProviderDown(_LOCKED)
    ours, message, retryable = next(entry[1:] for entry in _MEANINGS if isinstance(error, entry[0]))
    return ours(_unreached(error) or message, retryable=retryable)


def _unreached(error: Exception) -> str:
    """The sentence about a connection that was not made, where it is clear why."""
    why = why_unreached(error.os_error) if isinstance(error, aiohttp.ClientConnectorError) else ""
    if not why:
        return ""
    if isinstance(error, aiohttp.ClientProxyConnectionError):
        return f"The proxy to the back end cannot be reached: {why} HTTPS_PROXY and HTTP_PROXY name it."
    return f"The back end cannot be reached: {why}"


def _session(
    headers: Mapping[str, str], connect_timeout_s: float, tls: ssl.SSLContext, socket: Path | None
) -> aiohttp.ClientSession:
    """A session that keeps no cookies: a back end's could fill memory, and have no use."""
    # The worker's slots bound the connections; aiohttp's default of 100 would bound them again (0: no bound).
    connector = (
        aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEPALIVE_S, ssl=tls)
        if socket is None
        else aiohttp.UnixConnector(str(socket), limit=0, keepalive_timeout=KEEPALIVE_S)
    )
    timeout = aiohttp.ClientTimeout(sock_connect=connect_timeout_s)
    jar = aiohttp.DummyCookieJar()
    return aiohttp.ClientSession(connector=connector, headers=headers, timeout=timeout, cookie_jar=jar)


def _credentials(lane: LaneSettings) -> dict[str, str]:
    if lane.api_key is None:
        return {}
    key = lane.api_key.get_secret_value()
    if not (key.isascii() and key.isprintable()):
        raise ConfigError(f"Lane {lane.name!r}: its API key holds characters that no HTTP header can carry.")
    return {"Authorization": f"Bearer {key}"}


async def _connecting(ask: Callable[[], Awaitable[aiohttp.ClientResponse]]) -> aiohttp.ClientResponse:
    """The response to a request that is tried until it finds the server."""
    # Set up only when it is needed: it costs as much as sending.
    again = AsyncRetrying(
        retry=retry_if_exception(_never_connected),
        wait=wait_exponential(multiplier=0.05, max=0.4),
        stop=stop_before_delay(CONNECT_RETRY_S),
        reraise=True,
    )
    return await again(ask)


def _never_connected(error: BaseException) -> bool:
    return isinstance(error, aiohttp.ClientConnectorError) and not isinstance(error, aiohttp.ClientSSLError)


def _hung_up(error: Exception) -> bool:
    """The connection was closed before anything of an answer came."""
    closed = isinstance(error, aiohttp.ServerDisconnectedError | aiohttp.ClientOSError)
    return closed and not isinstance(error, aiohttp.ClientConnectorError)
