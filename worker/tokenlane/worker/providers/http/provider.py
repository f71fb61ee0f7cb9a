"""The base class of all HTTP providers. It fetches JSON documents, and streams answers with a time limit on each
wait."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, Self, TypeVar

import aiohttp
from pydantic_core import from_json, to_json

from tokenlane.config.exit_codes import ConfigError
from tokenlane.config.settings.values import LaneSettings
from tokenlane.routing.contract.answers import TokenDelta
from tokenlane.routing.contract.errors import (
    BadRequest,
    LlmError,
    ProviderDown,
    Timeout,
    Unauthorized,
    UnreadableAnswer,
)
from tokenlane.worker.providers.answers.reader import AnswerReader
from tokenlane.worker.providers.errors.http_errors import (
    MAX_DETAIL_BYTES,
    error_of,
    refusal,
    refusal_in_stream,
    unreadable,
)
from tokenlane.worker.providers.parsing.frames import BYTE_ORDER_MARK, Frames
from tokenlane.worker.providers.parsing.ndjson import LineReader
from tokenlane.worker.providers.server_names import NAMES

from .client import TRANSPORT_ERRORS, LaneClient, read_body, transport_error
from .deadlines import Deadlines
from .wait_timeout import WaitTimeout

T = TypeVar("T")

MAX_ANSWER_BYTES = 32 * 1024 * 1024
MAX_DOCUMENT_BYTES = 4 * 1024 * 1024
MAX_ERROR_BYTES = 64 * 1024
DOCUMENT_TIMEOUT_S = 10.0
HEALTH_TIMEOUT_S = 5.0
REFUSAL_S = 2.0
_JSON = {"Content-Type": "application/json"}


class HttpProvider:
    """A model server over HTTP.

    Raises:
        ConfigError: the lane's endpoint, API key or proxy cannot be used.
    """

    default_endpoint: ClassVar[str | None] = None
    stream_type: ClassVar[str]
    """The content type of the server's streams."""
    health_path: ClassVar[str]
    """A path that is cheap to request and has status 200 only if the server works."""
    version_at: ClassVar[tuple[str, str] | None] = None
    """The path for the server's version, and the field of the answer that holds it."""
    keeps_alive: ClassVar[bool] = True
    """Whether a connection can be reused after a stream."""

    def __init__(self, lane: LaneSettings) -> None:
        endpoint = lane.endpoint or self.default_endpoint
        if endpoint is None:
            raise ConfigError(
                f"Lane {lane.name!r}: provider {lane.provider!r} needs an endpoint, such as http://host:port."
            )
        self.endpoint = endpoint.rstrip("/").removesuffix("/v1")
        self._lane = lane
        self._http = LaneClient(lane, self.endpoint)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    async def healthy(self) -> None:
        """Return if the server reports that it works; see `ReportsHealth`."""
        await self._exchange(self.health_path, None, HEALTH_TIMEOUT_S, MAX_DOCUMENT_BYTES, connects_again=False)

    async def version(self) -> str | None:
        """The server's version; see `ReportsVersion`."""
        if self.version_at is None:
            return None
        path, name = self.version_at
        document = await self._request_json(path)
        version = document.get(name) if isinstance(document, dict) else None
        return version[:64] if isinstance(version, str) else None

    @contextmanager
    def _naming_lane(self, model: str | None = None) -> Iterator[None]:
        """Add the lane, its provider and the model to errors that the block raises."""
        try:
            yield
        except LlmError as error:
            error.at(provider=self._lane.provider, lane=self._lane.name, model=model)
            raise

    @contextmanager
    def _expecting(self, path: str) -> Iterator[None]:
        """Raise ProviderDown if the block cannot read a JSON document, which then comes from another kind of server."""
        try:
            yield
        except (KeyError, TypeError, ValueError, AttributeError):
            raise self._unusable_answer(path) from None

    async def _deltas(self, path: str, content: bytes, answer: AnswerReader) -> AsyncGenerator[TokenDelta, None]:
        """POST a request, and yield the deltas of its answer, within the time limits of `Deadlines`. If the connection
        fails after the finish reason, the answer counts as complete."""
        frames, deadlines, received = Frames(), Deadlines(self._lane, answer), 0
        try:
            with WaitTimeout() as timeout:
                post = self._http.send("POST", path, content, self._stream_headers())
                async with await timeout.wait(post, deadlines.until) as response:
                    await timeout.wait(self._check_stream(response), deadlines.until)
                    while chunk := await timeout.wait(response.content.readany(), deadlines.until):
                        received += len(chunk)
                        if received > MAX_ANSWER_BYTES:
                            raise _too_large()
                        for event in frames.feed(chunk):
                            delta = answer.take(event)
                            if delta is not None:
                                yield delta
                        deadlines.advance()
                        if deadlines.leaving():
                            break
        except TRANSPORT_ERRORS as error:
            if answer.finish_reason is None:
                failure = transport_error(error)
                raise (deadlines.overdue() if type(failure) is Timeout else failure) from None
        for delta in answer.end(frames):
            yield delta

    def _stream_headers(self) -> dict[str, str]:
        return {**_JSON, "Accept": self.stream_type, **({} if self.keeps_alive else {"Connection": "close"})}

    async def _check_stream(self, response: aiohttp.ClientResponse) -> None:
        """Raise an error if the response cannot be an answer. Apart from HTML the content type does not count, since
        proxies change it and some servers answer with one JSON document."""
        await self._check_status(response)
        if response.headers.get("content-type", "").lower().startswith("text/html"):
            document = await read_body(response, MAX_DETAIL_BYTES)
            raise unreadable("it is an HTML page, as from a web server, a login or a proxy", document)

    async def _check_status(self, response: aiohttp.ClientResponse) -> None:
        if response.status != 200:
            raise self._refused(response, await read_body(response, MAX_ERROR_BYTES))

    def _refused(self, response: aiohttp.ClientResponse, body: bytes) -> LlmError:
        """The error for a response with a status other than 200."""
        error = refusal(response.status, body, response.headers.get("retry-after"))
        error.http_status = response.status
        if isinstance(error, Unauthorized):
            error.message = self._unauthorized(response.status)
        return error

    def _unauthorized(self, status: int) -> str:
        if self._lane.api_key is None:
            return (
                f"The server requires an API key (HTTP {status}), and the lane has none: export TOKENLANE_API_KEY, "
                "or name its variable with --llm api_key_env=NAME."
            )
        variable = self._lane.api_key_from
        source = f"the environment variable {variable}" if variable else "the lane's api_key"
        return f"The model server refused the API key (HTTP {status}): check {source}."

    async def _request_json(
        self,
        path: str,
        question: object = None,
        *,
        model: str | None = None,
        timeout_s: float | None = None,
        most_bytes: int = MAX_DOCUMENT_BYTES,
    ) -> Any:
        """GET a JSON document, or POST `question` as JSON to get one.

        Args:
            model: the model that the question concerns, if any. The server may not have it.

        Raises:
            ProviderDown: the server does not have the path, does not answer, or does not answer with JSON.
            LlmError: the server refused the request.
        """
        body = await self._exchange(path, question, timeout_s or DOCUMENT_TIMEOUT_S, most_bytes, model=model)
        with self._expecting(path):
            return from_json(body)

    async def _field(self, path: str, name: str, kind: type[T], question: object = None) -> T:
        """One field of a JSON document.

        Raises:
            LlmError: see `_request_json`; also if the field is missing or has another type.
        """
        document = await self._request_json(path, question)
        value = document.get(name) if isinstance(document, dict) else None
        if not isinstance(value, kind):
            raise self._unusable_answer(path)
        return value

    async def _accepts(self, path: str, question: object) -> bool | None:
        """Whether the server accepts this question, whose answer is one token; None if it fails for another reason.
        Refusals come at once, so no answer within `REFUSAL_S` means that the server accepts the question."""
        try:
            async with asyncio.timeout(REFUSAL_S):
                await self._request_json(path, question)
        except TimeoutError:
            return True
        except BadRequest:
            return False
        except LlmError:
            return None
        return True

    async def _ask_model(self, path: str, question: object, model: str) -> Any:
        """POST a question that runs the model, and return the answer. The time limit is that for a first token.

        Raises:
            LlmError: as for a chat; ProviderDown if the answer is not JSON.
        """
        timeout_s = self._lane.first_token_timeout_s
        with self._naming_lane(model):
            document = await self._request_json(
                path, question, model=model, timeout_s=timeout_s, most_bytes=MAX_ANSWER_BYTES
            )
            if (error := error_of(document)) is not None:
                raise refusal_in_stream(error)
            return document

    async def _lines(self, path: str, question: object, stall_s: float) -> AsyncGenerator[dict[str, Any], None]:
        """POST a question, and yield the JSON objects of its answer, one per line. Only the wait for each chunk is
        limited, to `stall_s`.

        Raises:
            LlmError: the model server refused, stalled, or sent something other than JSON lines.
        """
        lines = LineReader()
        with self._naming_lane():
            try:
                async with asyncio.timeout(stall_s):
                    response = await self._http.send("POST", path, to_json(question), _JSON)
                async with response:
                    await self._check_status(response)
                    while True:
                        async with asyncio.timeout(stall_s):
                            chunk = await response.content.readany()
                        if not chunk:
                            return
                        for line in lines.feed(chunk):
                            with self._expecting(path):
                                document = {**from_json(line)}
                            yield document
            except TRANSPORT_ERRORS as error:
                raise transport_error(error) from None

    async def _exchange(
        self,
        path: str,
        question: object,
        timeout_s: float,
        most_bytes: int,
        *,
        model: str | None = None,
        connects_again: bool = True,
    ) -> bytes:
        """POST the question, or GET the path if there is no question, and return the body of the answer.

        Args:
            model: the model that the question concerns. If it is None, HTTP 404 means that the server does not have the
                path.

        Raises:
            LlmError: the answer did not arrive in time, is larger than `most_bytes`, or its status is not 200.
        """
        method, content, headers = ("GET", None, None) if question is None else ("POST", to_json(question), _JSON)
        with self._naming_lane(model):
            try:
                async with (
                    asyncio.timeout(timeout_s),
                    await self._http.send(method, path, content, headers, connects_again=connects_again) as response,
                ):
                    body = await read_body(response, most_bytes + 1)
            except TRANSPORT_ERRORS as error:
                raise transport_error(error) from None
            if len(body) > most_bytes:
                raise ProviderDown(
                    f"The model server's answer to {path} is larger than {most_bytes} bytes: is the endpoint a model "
                    "server?",
                    retryable=False,
                )
            if response.status == 404 and model is None:
                raise self._unusable_answer(path)
            if response.status != 200:
                raise self._refused(response, body)
            return body.removeprefix(BYTE_ORDER_MARK)

    def _unusable_answer(self, path: str) -> ProviderDown:
        server = NAMES.get(self._lane.provider, f"a server for the provider {self._lane.provider!r}")
        return ProviderDown(
            f"The model server gave no usable answer to {path}: is {server} running at the endpoint?",
            retryable=False,
            provider=self._lane.provider,
            lane=self._lane.name,
        )


def _too_large() -> UnreadableAnswer:
    return UnreadableAnswer(f"The answer is larger than {MAX_ANSWER_BYTES} bytes: ask for less with max_tokens.")
