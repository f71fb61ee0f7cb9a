"""What the transport's failures mean, and where a request is sent by."""

from __future__ import annotations

import asyncio
import errno
import json
import ssl
from collections import Counter
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from socket import gaierror
from urllib.parse import urlsplit

import aiohttp
import pytest
from aiohttp.client_exceptions import UnixClientConnectorError
from aiohttp.client_reqrep import ConnectionKey
from multidict import CIMultiDict, CIMultiDictProxy
from pydantic import SecretStr
from yarl import URL

from tokenlane.config.exit_codes import ConfigError
from tokenlane.config.settings.values import LaneSettings
from tokenlane.routing.contract.errors import (
    BadRequest,
    ContextTooLong,
    ImagesNotAccepted,
    LlmError,
    ModelNotFound,
    ProviderDown,
    RateLimited,
    Timeout,
    Unauthorized,
    UnreadableAnswer,
)
from tokenlane.worker.providers import ProviderRegistry, default_registry
from tokenlane.worker.providers.errors.http_errors import error_of, refusal, refusal_in_stream, retry_after_s
from tokenlane.worker.providers.http.client import LaneClient, transport_error
from tokenlane.worker.providers.http.proxies import proxy_for

KEY = ConnectionKey("h", 1, False, True, None, None, None)
NOT_WORTH_ANOTHER_TRY = (aiohttp.ClientSSLError, aiohttp.ClientResponseError, aiohttp.InvalidURL)


def tree(root: type[Exception]) -> set[type[Exception]]:
    return {root, *(kind for child in root.__subclasses__() for kind in tree(child))}


ALL_OF_AIOHTTP = sorted((kind for kind in tree(aiohttp.ClientError) if kind.__module__.startswith("aiohttp")), key=str)


@pytest.mark.parametrize("kind", ALL_OF_AIOHTTP)
def test_every_error_of_aiohttp_has_a_meaning(kind: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each becomes a time-out or a failed model server, its own words in the detail alone."""
    error = kind.__new__(kind)
    Exception.__init__(error, "secret words")
    for name, value in {
        "os_error": OSError(1, "no"),
        "status": 400,
        "_conn_key": KEY,
        "_os_error": OSError(1, "no"),
    }.items():
        try:
            setattr(error, name, value)
        except AttributeError:  # aiohttp derives it
            continue
    monkeypatch.setattr(kind, "__str__", lambda _: "secret words")
    meaning = transport_error(error)
    late = issubclass(kind, TimeoutError) and not issubclass(kind, aiohttp.ConnectionTimeoutError)
    assert type(meaning) is (Timeout if late else ProviderDown)
    gone = issubclass(kind, aiohttp.ClientHttpProxyError)
    assert meaning.retryable is (gone or not issubclass(kind, NOT_WORTH_ANOTHER_TRY))
    assert "secret" not in f"{meaning!r}{meaning}{meaning.message}"
    assert meaning.detail == "secret words"


def because(reason: str) -> ssl.SSLError:
    """What OpenSSL says."""
    error = ssl.SSLError(1, reason)
    error.reason = reason
    return error


@pytest.mark.parametrize(
    ("cause", "meaning", "words"),
    [
        (aiohttp.ClientConnectorError(KEY, OSError(1, "refused")), ProviderDown, "cannot be reached: is it"),
        (aiohttp.ClientConnectorError(KEY, OSError(errno.ECONNREFUSED, "no")), ProviderDown, "nothing listens"),
        (aiohttp.ClientConnectorDNSError(KEY, gaierror(-2, "no")), ProviderDown, "cannot be resolved"),
        (aiohttp.ClientConnectorError(KEY, OSError(errno.EHOSTUNREACH, "no")), ProviderDown, "no network route"),
        (aiohttp.ClientConnectorError(KEY, OSError(errno.ETIMEDOUT, "no")), ProviderDown, "in time"),
        (
            aiohttp.ClientProxyConnectionError(KEY, gaierror(-2, "no")),
            ProviderDown,
            "The proxy to the model server cannot",
        ),
        (aiohttp.ConnectionTimeoutError(), ProviderDown, "did not accept the connection"),
        (aiohttp.SocketTimeoutError(), Timeout, "in time"),
        (aiohttp.ServerDisconnectedError(), ProviderDown, "was lost"),
        (aiohttp.ClientPayloadError(), ProviderDown, "was lost"),
        (aiohttp.ClientConnectorSSLError(KEY, OSError(1, "bad")), ProviderDown, "certificate"),
        (aiohttp.ClientConnectorSSLError(KEY, because("WRONG_VERSION_NUMBER")), ProviderDown, "does not speak TLS"),
        (aiohttp.ClientConnectorSSLError(KEY, because("SSLV3_ALERT_X")), ProviderDown, "TLS handshake"),
        (UnixClientConnectorError("/s", KEY, PermissionError(13, "no")), ProviderDown, "may not open"),
        (UnixClientConnectorError("/s", KEY, FileNotFoundError(2, "no")), ProviderDown, "cannot be reached"),
    ],
)
def test_the_transports_own_error_decides(cause: Exception, meaning: type[LlmError], words: str) -> None:
    """Each kind of failure has words that lead to its cause."""
    found = transport_error(cause)
    assert type(found) is meaning
    assert words in found.message


@pytest.mark.parametrize(
    ("cause", "reached"),
    [
        (aiohttp.ClientConnectorError(KEY, OSError(1, "refused")), False),
        (aiohttp.ClientConnectorDNSError(KEY, OSError(1, "unknown host")), False),
        (aiohttp.ConnectionTimeoutError(), False),
        (aiohttp.ClientProxyConnectionError(KEY, OSError(1, "refused")), False),
        (aiohttp.ClientConnectorSSLError(KEY, because("SSLV3_ALERT_X")), False),
        (UnixClientConnectorError("/s", KEY, FileNotFoundError(2, "no")), False),
        (aiohttp.SocketTimeoutError(), True),
        (aiohttp.ServerDisconnectedError(), True),
        (aiohttp.ClientPayloadError(), True),
    ],
)
def test_who_could_not_be_connected_to_is_down(cause: Exception, reached: bool) -> None:
    """What fails before there is a connection says that of the whole server; what fails later says nothing of it."""
    assert transport_error(cause).server_condition == (None if reached else "down")


@pytest.mark.parametrize(
    ("status", "body", "server_condition"),
    [
        (503, b'{"error":{"message":"Loading model","type":"unavailable_error","code":503}}', "loading"),
        (503, b'{"error":"Model org/name is currently loading","estimated_time":20.0}', "loading"),
        (503, b"no healthy upstream", None),
        (500, b"Loading model", None),
        (400, b'{"error":"the prompt said: loading model"}', None),
    ],
)
def test_a_server_that_says_that_it_loads_is_believed(status: int, body: bytes, server_condition: str | None) -> None:
    """In its own words and with its own status; such a failure may be tried again."""
    error = refusal(status, body)
    assert error.server_condition == server_condition
    assert error.retryable is (status >= 500)


@pytest.mark.parametrize(
    ("status", "meaning", "retryable"),
    [
        (202, UnreadableAnswer, False),
        (204, UnreadableAnswer, False),
        (302, ProviderDown, False),
        (400, BadRequest, False),
        (401, Unauthorized, False),
        (403, Unauthorized, False),
        (404, ModelNotFound, False),
        (407, ProviderDown, False),
        (408, Timeout, True),
        (422, BadRequest, False),
        (429, RateLimited, True),
        (500, ProviderDown, True),
        (503, ProviderDown, True),
    ],
)
def test_http_statuses(status: int, meaning: type[LlmError], retryable: bool) -> None:
    """Each status has one meaning; the body is kept, bounded, in the detail alone."""
    error = refusal(status, b"a prompt " * 1000)
    assert type(error) is meaning
    assert error.retryable is retryable
    assert len(error.detail) == 2048
    assert "prompt" not in f"{error!r}{error}"


@pytest.mark.parametrize(
    "words",
    [
        b'{"error":{"code":400,"type":"exceed_context_size_error"}}',
        b'{"error":{"code":"context_length_exceeded"}}',
        b'{"error":{"message":"This model\'s maximum context length is 10 tokens. However"}}',
    ],
)
def test_context_too_long(words: bytes) -> None:
    """llama.cpp, OpenAI and vLLM each say in their own way that a request does not fit."""
    assert type(refusal(400, words)) is ContextTooLong


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (400, b'{"error":"registry.ollama.ai/library/phi:latest does not support tools"}'),
        (
            400,
            b'{"message":"\\"auto\\" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set"}',
        ),
        (500, b'{"error":{"code":500,"message":"tools param requires --jinja flag","type":"server_error"}}'),
    ],
)
def test_a_model_without_tools(status: int, words: bytes) -> None:
    """Ollama, vLLM and llama.cpp each say it in their own way; it is the request that fails, not the server."""
    error = refusal(status, words)
    assert type(error) is BadRequest
    assert not error.retryable
    assert "tools" in error.message


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (500, b'{"error":{"code":500,"message":"image input is not supported - hint: mmproj","type":"server_error"}}'),
        (400, b'{"error":"\\"phi\\" does not support image input"}'),
        (400, b'{"error":{"message":"Model \\"phi\\" does not support images."}}'),
        (400, b'{"error":{"message":"phi is not a multimodal model"}}'),
        (400, b'{"error":{"message":"At most 0 image(s) may be provided in one prompt."}}'),
    ],
)
def test_a_model_without_images(status: int, words: bytes) -> None:
    """llama.cpp, Ollama, LM Studio and vLLM each say it in their own way."""
    assert type(refusal(status, words)) is ImagesNotAccepted


def test_a_text_too_long_to_embed() -> None:
    """llama.cpp calls it a fault of its own, HTTP 500."""
    error = refusal(
        500,
        b'{"error":{"code":500,"message":"input (3001 tokens) is too large to process. increase the physical batch '
        b'size (current batch size: 512)","type":"server_error"}}',
    )
    assert type(error) is ContextTooLong
    assert "3001" in error.message
    assert "512" in error.message


@pytest.mark.parametrize("error", [{"code": 503, "message": "m"}, {"code": "x"}, "text", {}, [], 7, True])
def test_an_error_in_a_stream_is_a_failure_whatever_its_shape(error: object) -> None:
    """An error without a status that says otherwise is a failed model server."""
    assert type(refusal_in_stream(error)) is ProviderDown


@pytest.mark.parametrize(
    "message",
    [
        "Error: Jinja Exception: Conversation roles must alternate user/assistant/user/assistant/...",
        "Unsupported param: tools",
        "failed to parse grammar",
    ],
)
def test_a_500_that_is_the_requests(message: str) -> None:
    """What llama.cpp's template or grammar does not take it will not take the next time; other failures it may."""
    body = json.dumps({"error": {"code": 500, "message": message, "type": "server_error"}}, separators=(",", ":"))
    error = refusal(500, body.encode())
    assert (type(error), error.retryable) == (BadRequest, False)
    assert message in error.detail
    assert refusal(500, b'{"error":"it quotes: Jinja Exception"}').retryable


def test_what_is_no_http_stays_so() -> None:
    """A server of another protocol is not asked again and again."""
    asked = aiohttp.RequestInfo(URL("http://h"), "POST", CIMultiDictProxy(CIMultiDict()))
    assert not transport_error(aiohttp.ClientResponseError(asked, (), status=400)).retryable


@pytest.mark.parametrize(
    ("page", "reported"),
    [
        ({"error": "e"}, "e"),
        ({"error": {"message": "e"}}, {"message": "e"}),
        ({"error": "e", "error_type": "t"}, {"error": "e", "error_type": "t"}),
        ({"object": "error", "message": "e"}, {"object": "error", "message": "e"}),
        ({"message": "e", "code": 400}, {"message": "e", "code": 400}),
        ({"detail": [{"msg": "e"}]}, {"detail": [{"msg": "e"}]}),
        ([{"error": {"message": "e"}}], {"message": "e"}),
        ({"error": None, "choices": [{}]}, None),
        ({"error": {}, "choices": [{}]}, None),
        ({"message": {"content": "a"}}, None),
        ({"data": []}, None),
        ([], None),
        ("e", None),
    ],
)
def test_what_a_page_reports(page: object, reported: object) -> None:
    """An error is seen in each shape that servers give it, and nothing else is taken for one."""
    assert error_of(page) == reported


def test_retry_after() -> None:
    """Seconds or a date; anything else is no answer, and no answer is longer than a day."""
    assert retry_after_s("7") == 7
    assert retry_after_s("9" * 400) == 86_400
    soon = retry_after_s(format_datetime(datetime.now(UTC) + timedelta(seconds=600), usegmt=True))
    assert soon is not None
    assert 500 < soon <= 600
    assert retry_after_s("Mon, 01 Jan 2001 00:00:00 GMT") == 0
    assert [retry_after_s(value) for value in (None, "", "soon", "-1", "nan", "1e9", "\u0663")] == [None] * 7


def test_the_proxy_is_never_used_for_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy named by the environment serves other hosts, but not this one nor those NO_PROXY lists."""
    for name in ("no_proxy", "NO_PROXY", "all_proxy", "ALL_PROXY", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", "http://user:pw@proxy:3128")
    assert proxy_for(urlsplit("http://gpu1:8000")) == "http://user:pw@proxy:3128"
    for local in ("http://localhost:1", "http://127.0.0.2:1", "http://[::1]:1", "http://a.localhost"):
        assert proxy_for(urlsplit(local)) is None
    monkeypatch.setenv("no_proxy", "gpu1")
    assert proxy_for(urlsplit("http://gpu1:8000")) is None
    monkeypatch.setenv("http_proxy", "socks5://proxy:1080")
    with pytest.raises(ConfigError, match="socks5"):
        proxy_for(urlsplit("http://gpu2:8000"))


@pytest.mark.parametrize("name", ["HTTPS_PROXY", "ALL_PROXY"])
@pytest.mark.parametrize(
    "address",
    [
        "http://user:hidden@host:port",
        "http://[::1",
        "http://",
        "http://h:99999",
        "http://a..b",
        f"http://{'a' * 64}.example",
        "http://user:hid#den@h:1",
        "http://xn--:1",
    ],
)
def test_a_proxy_that_is_no_address_is_refused(monkeypatch: pytest.MonkeyPatch, name: str, address: str) -> None:
    """It is one line that names the variable, and shows nothing of what may be a password."""
    for other in ("no_proxy", "NO_PROXY", "all_proxy", "ALL_PROXY", "https_proxy", "HTTPS_PROXY"):
        monkeypatch.delenv(other, raising=False)
    monkeypatch.setenv(name, address)
    with pytest.raises(ConfigError, match=f"{name}.*http://HOST:PORT") as refused:
        default_registry().create(LaneSettings("gpu0", "openai", "https://model.example"))
    assert "\n" not in str(refused.value)
    assert "hid" not in str(refused.value)


async def test_the_key_is_in_no_repr() -> None:
    """The API key goes into the header and into no text about the client or the lane."""
    lane = LaneSettings("gpu0", "openai", "http://127.0.0.1:1", api_key=SecretStr("topsecret"))
    client = LaneClient(lane, "http://127.0.0.1:1")
    with pytest.raises(aiohttp.ClientError) as refused:
        await client.send("GET", "/", connects_again=False)
    await client.aclose()
    assert "topsecret" not in f"{client!r}{vars(client)['_session']!r}{lane!r}{refused.value!r}"


@pytest.mark.parametrize(
    "endpoint",
    [
        "ftp://host",
        "host:80",
        "http://",
        "http://[::1",
        "http://h:99999",
        "http://xn--:1",
        "http://a..b:1",
        f"http://{'a' * 64}.example",
        None,
    ],
)
def test_an_unusable_endpoint_is_refused_at_once(endpoint: str | None) -> None:
    """A lane whose endpoint cannot be used is a configuration error that names the lane."""
    with pytest.raises(ConfigError, match="gpu0"):
        default_registry().create(LaneSettings("gpu0", "openai", endpoint))


@pytest.mark.parametrize(
    ("endpoint", "part"),
    [
        ("localhost:8000", "http://"),
        ("http://user:hidden@h:PORT", "port"),
        ("http://h:0", "port"),
        ("http://a..b", "host"),
    ],
)
def test_the_error_says_what_is_wrong_with_an_endpoint(endpoint: str, part: str) -> None:
    """It quotes the endpoint without a password, and names the part that is wrong."""
    with pytest.raises(ConfigError) as refused:
        default_registry().create(LaneSettings("gpu0", "openai", endpoint))
    quoted, reason = str(refused.value).split("' ", 1)
    assert quoted.endswith(endpoint.replace("user:hidden", "user:***"))
    assert part in reason
    assert "hidden" not in quoted


def test_an_unusable_key_is_refused_without_being_quoted() -> None:
    """A key with a line break would be two headers; the error does not show it."""
    with pytest.raises(ConfigError) as refused:
        default_registry().create(LaneSettings("gpu0", "openai", "http://h", api_key=SecretStr("top\nsecret")))
    assert "top" not in str(refused.value)


def test_a_key_beside_a_user_in_the_endpoint_is_refused_without_being_quoted() -> None:
    """One request cannot carry both; the error shows neither."""
    lane = LaneSettings("gpu0", "openai", "http://user:hidden@h", api_key=SecretStr("topsecret"))
    with pytest.raises(ConfigError, match="gpu0") as refused:
        default_registry().create(lane)
    assert "hidden" not in str(refused.value)
    assert "topsecret" not in str(refused.value)


def test_an_unknown_provider_is_refused_with_those_there_are() -> None:
    """The error lists the names a lane may use."""
    with pytest.raises(ConfigError, match=r"'nosuch'.*builtin, llamacpp, lmstudio, ollama, openai, tgi, vllm"):
        default_registry().create(LaneSettings("gpu0", "nosuch", "http://h"))
    assert ProviderRegistry().names() == []


@pytest.mark.parametrize("kept", [True, False])
async def test_idle_connections_that_the_server_has_closed(kept: bool) -> None:
    """A request is sent again over each of them that proves to be closed; over a new connection it is sent once."""
    received = Counter[str]()
    warmed = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests = 0
        with suppress(asyncio.IncompleteReadError):
            while True:
                path = (await reader.readuntil(b"\r\n\r\n")).split()[1].decode()
                received[path] += 1
                requests += 1
                if path == "/warm":
                    await warmed.wait()
                elif requests > 1 or not kept:
                    break
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    endpoint = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    client = LaneClient(LaneSettings("gpu0", "openai"), endpoint)
    try:
        warming = asyncio.gather(*(client.send("POST", "/warm", b"") for _ in range(5)))
        while received["/warm"] < 5:
            await asyncio.sleep(0)
        warmed.set()
        for response in await warming:
            await response.read()
        if kept:
            assert (await client.send("POST", "/chat", b"")).status == 200
        else:
            with pytest.raises(aiohttp.ClientError):
                await client.send("POST", "/chat", b"")
        assert received["/chat"] == 6
    finally:
        await client.aclose()
        server.close()
