"""The HTTP client of one lane: its session, its credentials, and the errors for failed connections."""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import SplitResult, urlsplit

import aiohttp
from aiohttp.client_exceptions import UnixClientConnectorError
from opentelemetry import propagate, trace
from tenacity import AsyncRetrying, retry_if_exception, stop_before_delay, wait_exponential

from tokenlane.config.exit_codes import ConfigError
from tokenlane.config.host.connection_errors import why_unreached
from tokenlane.config.host.socket_urls import socket_of
from tokenlane.config.settings.values import LaneSettings, masked_url
from tokenlane.routing.contract.errors import LlmError, ProviderDown, Timeout
from tokenlane.worker.providers.errors.http_errors import PROXY_WANTS_A_USER

from .certificates import tls_context
from .proxies import proxy_for, web_address

KEEPALIVE_S = 4.0
"""How long an idle connection is kept. Servers such as uvicorn close it after 5 s, and a request sent at that moment
would be lost."""
CONNECT_RETRY_S = 0.9
_LARGE_BODY_BYTES = 1 << 20
_AT_SOCKET = "http://localhost"
"""The base URL, and so the `Host` header, of requests to a server at a Unix socket."""
_CODINGS = ("", "identity", "gzip", "deflate")

TRANSPORT_ERRORS = (aiohttp.ClientError, OSError)
"""The errors of failed connections. `transport_error` translates them to an `LlmError`."""

_REFUSED = "The model server cannot be reached: is it running, and is the lane's endpoint right?"
_SLOW_CONNECT = "The model server did not accept the connection in time: is it overloaded, or behind a firewall?"
_SLOW = "The model server did not answer in time."
_LOST = "The connection to the model server was lost before the answer was complete."
_NONSENSE = "The server at the lane's endpoint does not speak HTTP correctly: is it a model server?"
_PROXY = "The proxy to the model server refused or failed: check the proxy settings and NO_PROXY."
_ADDRESS = "The lane's endpoint is not a URL of a model server: check its host name and its port."
_TLS = (
    "The model server's certificate is not trusted. If it comes from a private CA, set SSL_CERT_FILE to the CA's file."
)
_HANDSHAKE = (
    "The model server refused the TLS handshake. Does it require a client certificate? Those are not supported."
)
_LOCKED = (
    "This worker's user may not open the model server's socket: check the permissions of its file and directories."
)
_NO_TLS = "The model server does not speak TLS at that port: should the endpoint begin with http://?"

# aiohttp's error, our error, its message, and whether a retry may help. The first match counts.
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
"""Errors before the connection to the model server is established."""


@dataclass
class _Sent:
    """How a request was sent. aiohttp fills it in."""

    over_idle_connection: bool = False


class LaneClient:
    """Sends the requests of one lane. It follows no redirects, so credentials go only to the lane's host.

    Args:
        endpoint: the base URL of all requests.

    Raises:
        ConfigError: endpoint, API key, proxy or SSL_CERT_FILE cannot be used.
    """

    def __init__(self, lane: LaneSettings, endpoint: str) -> None:
        if wrong := what_is_wrong(endpoint):
            raise ConfigError(f"Lane {lane.name!r}: the endpoint {masked_url(endpoint)!r} {wrong}.")
        socket, url = _parsed(endpoint)
        assert url is not None
        if "@" in url.netloc and lane.api_key is not None:
            raise ConfigError(
                f"Lane {lane.name!r}: the endpoint contains a user name, but the lane also has an API key: remove one "
                "of them."
            )
        headers = {"Accept-Encoding": "identity", **_credentials(lane)}
        self._base = url.geturl().rstrip("/")
        self._proxy = proxy_for(url)
        self._open = partial(_session, headers, lane.connect_timeout_s, tls_context(url.scheme), socket)
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
        """Send a request, and return the response before its body is read.

        A failed connect is retried for `CONNECT_RETRY_S`. A request that was sent just when the server closed an idle
        connection is sent again, until it has an answer or goes over a new connection.

        Args:
            connects_again: whether to retry a failed connect.

        Raises:
            ProviderDown: the body has an unsupported Content-Encoding.
        """
        # The session is created here, since it belongs to the running event loop.
        session = self._session = self._session or self._open()
        url, proxy = f"{self._base}{path}", self._proxy

        async def ask() -> aiohttp.ClientResponse:
            while True:
                sent = _Sent()
                try:
                    return await session.request(
                        method,
                        url,
                        data=_body(content),
                        headers=_with_trace(headers),
                        allow_redirects=False,
                        proxy=proxy,
                        trace_request_ctx=sent,
                    )
                except aiohttp.ClientError as error:
                    if not (sent.over_idle_connection and _closed_without_answer(error)):
                        raise

        try:
            response = await ask()
        except aiohttp.ClientError as error:
            if not (connects_again and _never_connected(error)):
                raise
            response = await _connecting(ask)
        if response.headers.get("content-encoding", "").strip().lower() not in _CODINGS:
            response.close()
            raise ProviderDown(
                "The model server, or a proxy in front of it, compressed its answer, although the request asked for no "
                "compression.",
                retryable=False,
            )
        return response


async def read_body(response: aiohttp.ClientResponse, limit: int) -> bytes:
    """Read the body, but at most `limit` bytes."""
    body = b""
    while len(body) < limit and (chunk := await response.content.readany()):
        body += chunk
    return body[:limit]


def transport_error(error: Exception) -> LlmError:
    """The `LlmError` for a failed connection. The text of `error` goes only into `detail`, since it may quote received
    data."""
    failure = _meaning(error)
    failure.detail = str(error)[:2048]
    if isinstance(error, _NOT_REACHED):
        failure.server_condition = "down"
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
    """A message with the reason why a connect failed; empty if the reason is unknown."""
    why = why_unreached(error.os_error) if isinstance(error, aiohttp.ClientConnectorError) else ""
    if not why:
        return ""
    if isinstance(error, aiohttp.ClientProxyConnectionError):
        return f"The proxy to the model server cannot be reached: {why} HTTPS_PROXY and HTTP_PROXY name it."
    return f"The model server cannot be reached: {why}"


def _session(
    headers: Mapping[str, str], connect_timeout_s: float, tls: ssl.SSLContext, socket: Path | None
) -> aiohttp.ClientSession:
    """A session without cookies, which model servers do not need and which could fill the memory."""
    # The worker's slots already limit the connections. 0 removes aiohttp's limit of 100.
    connector = (
        aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEPALIVE_S, ssl=tls)
        if socket is None
        else aiohttp.UnixConnector(str(socket), limit=0, keepalive_timeout=KEEPALIVE_S)
    )
    timeout = aiohttp.ClientTimeout(sock_connect=connect_timeout_s)
    jar = aiohttp.DummyCookieJar()
    tracing = aiohttp.TraceConfig()
    tracing.on_connection_reuseconn.append(_note_reuse)
    return aiohttp.ClientSession(
        connector=connector, headers=headers, timeout=timeout, cookie_jar=jar, trace_configs=[tracing]
    )


async def _note_reuse(
    _session: aiohttp.ClientSession, context: SimpleNamespace, _reuse: aiohttp.TraceConnectionReuseconnParams
) -> None:
    sent = context.trace_request_ctx
    if isinstance(sent, _Sent):
        sent.over_idle_connection = True


def _parsed(endpoint: str) -> tuple[Path | None, SplitResult | None]:
    """The socket of an endpoint, if it names one, and the URL of its requests, if there is one."""
    socket = socket_of(endpoint) if endpoint.startswith("unix:///") else None
    return socket, web_address(endpoint if socket is None else _AT_SOCKET)


def what_is_wrong(endpoint: str) -> str:
    """What is wrong with an endpoint, to follow it in a message; empty if nothing is."""
    _, url = _parsed(endpoint)
    if url is not None and url.scheme in ("http", "https"):
        return ""
    if not endpoint.startswith(("http://", "https://", "unix:///")):
        return "must begin with http://, https:// or unix:///, as in http://localhost:8000"
    try:
        has_port = urlsplit(endpoint).port != 0
    except ValueError:
        has_port = False
    return "has no valid host name" if has_port else "has no valid port: use a number from 1 to 65535"


def _credentials(lane: LaneSettings) -> dict[str, str]:
    if lane.api_key is None:
        return {}
    key = lane.api_key.get_secret_value()
    if not (key.isascii() and key.isprintable()):
        raise ConfigError(
            f"Lane {lane.name!r}: its API key contains characters that an HTTP header cannot contain: check the key."
        )
    return {"Authorization": f"Bearer {key}"}


async def _connecting(ask: Callable[[], Awaitable[aiohttp.ClientResponse]]) -> aiohttp.ClientResponse:
    """Retry a request until it connects, and return the response."""
    # Created only here, since creating it costs as much as sending a request.
    again = AsyncRetrying(
        retry=retry_if_exception(_never_connected),
        wait=wait_exponential(multiplier=0.05, max=0.4),
        stop=stop_before_delay(CONNECT_RETRY_S),
        reraise=True,
    )
    return await again(ask)


def _with_trace(headers: Mapping[str, str] | None) -> Mapping[str, str] | None:
    """The headers with the context of the current span, so that the model server's spans join the trace."""
    if not trace.get_current_span().get_span_context().is_valid:
        return headers
    carrier = dict(headers or {})
    propagate.inject(carrier)
    return carrier


def _never_connected(error: BaseException) -> bool:
    return isinstance(error, aiohttp.ClientConnectorError) and not isinstance(error, aiohttp.ClientSSLError)


def _body(content: bytes | None) -> bytes | BytesIO | None:
    """The body as aiohttp wants it: a large one as a file, which it sends without blocking the event loop."""
    return BytesIO(content) if content is not None and len(content) > _LARGE_BODY_BYTES else content


def _closed_without_answer(error: Exception) -> bool:
    """Whether the server closed the connection before it sent an answer."""
    closed = isinstance(error, aiohttp.ServerDisconnectedError | aiohttp.ClientOSError)
    return closed and not isinstance(error, aiohttp.ClientConnectorError)
