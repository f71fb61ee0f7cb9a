"""What all back ends over HTTP share: pages of JSON, and streams whose every wait has its bound."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from types import TracebackType
from typing import Any, ClassVar, Self

import httpx
from pydantic_core import from_json, to_json

from tokenlane.config.exit_codes import ConfigError
from tokenlane.config.settings.values import LaneSettings
from tokenlane.routing.contract.errors import (
    BadRequest,
    LlmError,
    ProviderDown,
    Timeout,
    Unauthorized,
    UnreadableAnswer,
)
from tokenlane.worker.providers.errors.http_errors import MAX_DETAIL_BYTES, error_of, refusal, refusal_in_stream
from tokenlane.worker.providers.errors.unreadable import unreadable
from tokenlane.worker.providers.parsing.frames import BYTE_ORDER_MARK
from tokenlane.worker.providers.parsing.ndjson import LineReader
from tokenlane.worker.providers.parsing.shape import EMBEDDINGS, wrong_field
from tokenlane.worker.providers.server_names import NAMES

from .client import TRANSPORT_ERRORS, open_client, posting, reading, send, transport_error
from .patience import Patience
from .reading import Reading
from .time_outs import STOPPED_GRACE_S, next_piece_s, overdue

MAX_ANSWER_BYTES = 32 * 1024 * 1024
MAX_PAGE_BYTES = 4 * 1024 * 1024
MAX_ERROR_BYTES = 64 * 1024
PAGE_TIMEOUT_S = 10.0
HEALTH_TIMEOUT_S = 5.0
REFUSAL_S = 2.0


class HttpProvider:
    """A back end over HTTP.

    Raises:
        ConfigError: the lane's endpoint, API key or proxy cannot be used.
    """

    default_endpoint: ClassVar[str | None] = None
    stream_type: ClassVar[str]
    """The content type of its streams."""
    health_path: ClassVar[str]
    """A page that costs the server nothing, and is there only if it can work."""
    keeps_alive: ClassVar[bool] = True
    """Whether a connection can carry another request after a stream."""

    def __init__(self, lane: LaneSettings) -> None:
        endpoint = lane.endpoint or self.default_endpoint
        if endpoint is None:
            raise ConfigError(f"Lane {lane.name!r}: provider {lane.provider!r} needs an endpoint, as http://host:port.")
        self.endpoint = endpoint.rstrip("/").removesuffix("/v1")
        self._lane = lane
        self._http = open_client(lane, self.endpoint)
        self._posting = lru_cache(self._posting_to)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    @contextmanager
    def _placed(self, model: str | None = None) -> Iterator[None]:
        """Errors that are raised inside name the lane, its provider and the model."""
        try:
            yield
        except LlmError as error:
            error.at(provider=self._lane.provider, lane=self._lane.name, model=model)
            raise

    async def healthy(self) -> None:
        """Return if the server says that it can work; see `TellsHealth`."""
        response, body = await self._exchange(
            self.health_path, None, HEALTH_TIMEOUT_S, MAX_PAGE_BYTES, connects_again=False
        )
        if response.status_code != 200:
            raise self._refused(response, body).at(provider=self._lane.provider, lane=self._lane.name)

    async def _stream(self, path: str, content: bytes, answer: Reading) -> AsyncGenerator[bytes, None]:
        """POST, and the body of the answer as it arrives, each phase in its own time. Once `answer` is whole, a failure
        is only an early end."""
        loop = asyncio.get_running_loop()
        start = loop.time()
        first_until = start + self._lane.first_token_timeout_s
        post = self._posting(path)
        with Patience() as patience:
            try:
                response = await patience.wait(post(content), first_until)
                try:
                    await patience.wait(self._check_stream(response), first_until)
                    until, ends_at = first_until, start + self._lane.total_timeout_s
                    received, events, left_at = 0, 0, 0.0
                    async with reading(response) as read:
                        while chunk := await patience.wait(read(), min(until, ends_at)):
                            received += len(chunk)
                            if received > MAX_ANSWER_BYTES:
                                raise _too_long()
                            yield chunk
                            if answer.events > events and answer.begun:
                                events = answer.events
                                until = loop.time() + next_piece_s(self._lane, answer)
                                if answer.stopped:
                                    left_at = left_at or loop.time() + STOPPED_GRACE_S
                                    ends_at = min(ends_at, left_at)
                                    if loop.time() >= ends_at:
                                        break
                finally:
                    await response.aclose()
            except LlmError:
                raise
            except TRANSPORT_ERRORS as error:
                if answer.finish_reason is None:
                    raise self._failure(error, answer, start) from None

    def _posting_to(self, path: str) -> Callable[[bytes], Awaitable[httpx.Response]]:
        """Sends what it is given, and asks for a stream."""
        headers = {"Content-Type": "application/json", "Accept": self.stream_type}
        if not self.keeps_alive:
            headers["Connection"] = "close"
        return posting(self._http, path, headers)

    async def _check_stream(self, response: httpx.Response) -> None:
        """Raise what the response stands for unless it may be an answer. Its content type does not decide: proxies call
        streams anything, and some servers answer with one page of JSON."""
        if response.status_code != 200:
            raise self._refused(response, await read_body(response, MAX_ERROR_BYTES))
        kind = response.headers.get("content-type", "").lower()
        if kind.startswith("text/html"):
            page = await read_body(response, MAX_DETAIL_BYTES)
            raise unreadable("it is a page of HTML, as of a web server, a login or a proxy", page)

    def _refused(self, response: httpx.Response, body: bytes) -> LlmError:
        """What an HTTP answer other than 200 stands for."""
        error = refusal(response.status_code, body, response.headers.get("retry-after"))
        if isinstance(error, Unauthorized):
            error.message = self._unauthorized(response.status_code)
        return error

    def _unauthorized(self, status: int) -> str:
        if self._lane.api_key is None:
            return (
                f"The back end wants an API key (HTTP {status}), and the lane has none: api_key_env names the variable "
                "that holds it."
            )
        variable = self._lane.api_key_from
        source = f"{variable}, the environment variable it comes from" if variable else "the lane's"
        return f"The back end refused the API key (HTTP {status}): check {source}."

    def _failure(self, error: Exception, answer: Reading, start: float) -> LlmError:
        failure = transport_error(error)
        if type(failure) is not Timeout:
            return failure
        return overdue(self._lane, answer, asyncio.get_running_loop().time() - start)

    async def _page(self, path: str, question: object = None) -> Any:
        """GET a page of JSON; with a question, POST that as JSON.

        Raises:
            ProviderDown: there is no such page, or the back end does not answer.
            LlmError: another refusal.
        """
        response, body = await self._exchange(path, question, PAGE_TIMEOUT_S, MAX_PAGE_BYTES)
        try:
            if response.status_code == 404:
                raise self._no_page(path)
            if response.status_code != 200:
                raise self._refused(response, body)
            return from_json(body)
        except LlmError as error:
            error.at(provider=self._lane.provider, lane=self._lane.name)
            raise
        except ValueError:
            raise self._no_page(path) from None

    async def _takes(self, path: str, question: object) -> bool | None:
        """Whether the server takes this question, which is worth a token; None if it fails otherwise than by refusing.
        It refuses at once what it was not started for, so one that lets us wait is only busy."""
        try:
            async with asyncio.timeout(REFUSAL_S):
                await self._page(path, question)
        except TimeoutError:
            return True
        except BadRequest:
            return False
        except LlmError:
            return None
        return True

    async def _work(self, path: str, question: object, model: str) -> Any:
        """POST a question that has the model work; its answer, which may take as long as a first token.

        Raises:
            LlmError: as a chat; a page that is no JSON is a failed back end.
        """
        try:
            response, body = await self._exchange(path, question, self._lane.first_token_timeout_s, MAX_ANSWER_BYTES)
            if response.status_code != 200:
                raise self._refused(response, body)
            try:
                page = from_json(body)
            except ValueError:
                raise self._no_page(path).at(model=model) from None
            if (said := error_of(page)) is not None:
                raise refusal_in_stream(said)
            return page
        except LlmError as error:
            error.at(provider=self._lane.provider, lane=self._lane.name, model=model)
            raise

    async def _lines(self, path: str, question: object, stall_s: float) -> AsyncGenerator[dict[str, Any], None]:
        """POST a question; the JSON objects of its answer, one a line, which may take for ever if none is late.

        Raises:
            LlmError: the back end refused, fell silent, or sent something else.
        """
        headers = {"Content-Type": "application/json"}
        request = self._http.build_request("POST", path, content=to_json(question), headers=headers)
        clock, lines = asyncio.get_running_loop().time, LineReader()
        with Patience() as patience:
            try:
                response = await patience.wait(send(self._http, request), clock() + stall_s)
                try:
                    if response.status_code != 200:
                        raise self._refused(response, await read_body(response, MAX_ERROR_BYTES))
                    async with reading(response) as read:
                        while chunk := await patience.wait(read(), clock() + stall_s):
                            for line in map(from_json, lines.feed(chunk)):
                                if not isinstance(line, dict):
                                    raise ValueError
                                yield line
                finally:
                    await response.aclose()
            except LlmError as error:
                error.at(provider=self._lane.provider, lane=self._lane.name)
                raise
            except TRANSPORT_ERRORS as error:
                raise transport_error(error).at(provider=self._lane.provider, lane=self._lane.name) from None
            except ValueError:
                raise self._no_page(path) from None

    async def _exchange(
        self,
        path: str,
        question: object,
        timeout_s: float,
        most_bytes: int,
        *,
        connects_again: bool = True,
    ) -> tuple[httpx.Response, bytes]:
        """One request and the whole body of its answer; a GET if there is no question.

        Raises:
            LlmError: there was no answer in time, or it is larger than that.
        """
        if question is None:
            request = self._http.build_request("GET", path)
        else:
            headers = {"Content-Type": "application/json"}
            request = self._http.build_request("POST", path, content=to_json(question), headers=headers)
        try:
            async with asyncio.timeout(timeout_s):
                response = await send(self._http, request, connects_again=connects_again)
                try:
                    body = await read_body(response, most_bytes + 1)
                finally:
                    await response.aclose()
        except TRANSPORT_ERRORS as error:
            raise transport_error(error).at(provider=self._lane.provider, lane=self._lane.name) from None
        if len(body) > most_bytes:
            raise ProviderDown(
                f"The back end's answer to {path} is larger than {most_bytes} bytes: is the endpoint a model server?",
                retryable=False,
                provider=self._lane.provider,
                lane=self._lane.name,
            )
        return response, body.removeprefix(BYTE_ORDER_MARK)

    def _not_vectors(self, page: object, model: str) -> LlmError:
        wrong = wrong_field(page, EMBEDDINGS) or "it holds no vectors"
        return unreadable(wrong).at(provider=self._lane.provider, lane=self._lane.name, model=model)

    def _no_page(self, path: str) -> ProviderDown:
        server = NAMES.get(self._lane.provider, f"a server for the provider {self._lane.provider!r}")
        return ProviderDown(
            f"The back end gives no usable answer to {path}: is it {server} that answers at the endpoint?",
            retryable=False,
            provider=self._lane.provider,
            lane=self._lane.name,
        )


def _too_long() -> UnreadableAnswer:
    return UnreadableAnswer(f"The answer is larger than {MAX_ANSWER_BYTES} bytes: ask for less with max_tokens.")


async def read_body(response: httpx.Response, limit: int) -> bytes:
    """The body up to `limit` bytes."""
    body = b""
    async with reading(response) as read:
        while len(body) < limit and (chunk := await read()):
            body += chunk
    return body[:limit]
