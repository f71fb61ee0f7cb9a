"""Answers a chat in any dialect: as a stream of events or as a whole."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tokenlane.producer.stream import ChatStream
from tokenlane.routing.contract.answers import TokenDelta
from tokenlane.routing.contract.errors import Interrupted, LlmError
from tokenlane.routing.support.tasks import InternalErrors, background

from . import anthropic_errors, openai_errors
from .anthropic_errors import speaks_anthropic
from .dialect import AnswerWriter, Dialect
from .door import Asked, Door, prepare
from .failures import INTERNAL, Failure, Refused, failure_of, request_id_headers
from .http.client_leaves import until_client_leaves
from .http.json_body import read_json
from .http.outlet import Outlet, Pauses
from .http.resume import event_id, size_of, split

_T = TypeVar("_T")

ErrorBody: TypeAlias = Callable[[Failure], object]
"""Makes the body of a response that says what failed, in the shape of an API."""

_QUIET_S = 30.0
"""How long a client of a whole answer may get no byte. Later its status can no longer say that the request failed."""


async def answer(door: Door, dialect: Dialect, request: Request) -> Response:
    """Answer a request of this dialect."""
    asked = await ask(door, dialect, request)
    return asked if isinstance(asked, Response) else respond(door, dialect, asked, request)


async def ask(door: Door, dialect: Dialect, request: Request) -> Asked | Response:
    """Read a request of this dialect. Returns the response that refuses it if it cannot be answered."""

    async def read() -> Asked:
        caller = await door.caller_of(request)  # before the body: nobody makes the gateway read much for nothing
        return await prepare(door, caller, dialect.read(await read_json(request)), request)

    return await unless_refused(dialect.error, read())


async def unless_refused(error: ErrorBody, read: Awaitable[_T]) -> _T | Response:
    """What is read of a request, or the response that refuses it.

    Args:
        error: makes the body of a response that says what failed.
    """
    try:
        return await read
    except Refused as refused:
        return refusal(error, refused.failure)
    except LlmError as failed:  # the pool does not answer
        return refusal(error, failure_of(failed))
    except ClientDisconnect:
        return Response(status_code=499)


def respond(door: Door, dialect: Dialect, asked: Asked, request: Request) -> Response:
    """The response that sends a question, and answers it."""
    if asked.question.is_streamed:
        return StreamedAnswer(door, dialect, asked, with_ids="last-event-id" in request.headers)

    async def whole() -> bytes:
        async with asked.stream as stream:
            return _json(dialect.whole(asked.question, asked.accepted, await stream.answer()))

    return WholeAnswer(door, whole, dialect.error, lambda: _headers(asked, "application/json"))


def error_body_for(request: Request) -> ErrorBody:
    """The shape of errors on a path that OpenAI's and Anthropic's APIs share, or that neither has."""
    return anthropic_errors.error_body if speaks_anthropic(request.headers) else openai_errors.error_body


def refusal(error: ErrorBody, failure: Failure) -> Response:
    """A response that says what failed."""
    return Response(_json(error(failure)), failure.status, failure.headers, "application/json")


class CountsBugs:
    """Middleware that counts unexpected errors. The log has where one was raised, but not its text, which may quote a
    request; uvicorn and Starlette would log that too.

    Args:
        errors: counts them.
    """

    def __init__(self, app: ASGIApp, errors: InternalErrors) -> None:
        self._app, self._errors = app, errors

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        has_begun = False

        async def send_and_note(message: Message) -> None:
            nonlocal has_begun
            has_begun = True
            await send(message)

        try:
            await self._app(scope, receive, send_and_note)
        except Exception as error:
            self._errors.record("gateway", error)
            if not has_begun:
                await refusal(error_body_for(Request(scope)), INTERNAL)(scope, receive, send)


class WholeAnswer(Response):
    """The response with a complete answer. While a client waits for long, it gets spaces, which JSON allows.

    Args:
        work: makes the answer, as JSON; cancelled when the client leaves.
        error: makes the body of a response that says what failed.
        headers: makes the headers when the response begins.
    """

    def __init__(
        self, door: Door, work: Callable[[], Awaitable[bytes]], error: ErrorBody, headers: Callable[[], dict[str, str]]
    ) -> None:
        super().__init__()
        self._door, self._work, self._error, self._make_headers = door, work, error, headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        pauses = self._door.pauses
        outlet = Outlet(send, self._make_headers)
        quiet = Pauses(max(_QUIET_S, pauses.first_byte_s), pauses.ping_every_s, pauses.slow_client_s)
        async with until_client_leaves(receive) as left, background() as tasks:
            tasks.create_task(outlet.keep_open(lambda: b" ", quiet, left))
            try:
                whole = await self._work()
            except Exception as error:
                failure = _failure(self._door, error)
                body = _json(self._error(failure))
                if not outlet.has_begun:
                    await outlet.refuse(failure.status, _error_headers(failure), body)
                else:
                    await outlet.write(body)  # and no end: the client must not take this for an answer
                return
            await outlet.write(whole)
            await outlet.end()


class StreamedAnswer(Response):
    """The response with an answer's events.

    Args:
        with_ids: whether events have ids, for `Last-Event-ID`. Some clients take an event with an id and no data for a
            broken one, so only clients that send the header get them.
    """

    def __init__(self, door: Door, dialect: Dialect, asked: Asked, *, with_ids: bool) -> None:
        super().__init__()
        self._door, self._dialect, self._asked = door, dialect, asked
        self._with_ids = with_ids
        self._characters = 0
        self._begin = b""
        self._writer = dialect.writer(asked.question, asked.begun)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        outlet = Outlet(send, lambda: _headers(self._asked, "text/event-stream"))
        async with until_client_leaves(receive) as left, background() as tasks:
            tasks.create_task(outlet.keep_open(self._ping, self._door.pauses, left))
            try:
                await self._send(outlet, left)
                await outlet.end()
            except Exception as error:
                failure = _failure(self._door, error)
                if not outlet.has_begun:
                    body = _json(self._dialect.error(failure))
                    await outlet.refuse(failure.status, _error_headers(failure), body)
                else:
                    await outlet.write(self._begun() + self._writer.fail(failure))
                    await outlet.end()

    async def _send(self, outlet: Outlet, left: asyncio.Event) -> None:
        """Send the events of the answer, without those that the client has."""
        async with self._asked.stream as stream:
            try:
                await self._send_events(outlet, stream)
            except asyncio.CancelledError:
                if not left.is_set():
                    stream.let_go()  # this gateway stops, and the client may join its request at another
                raise

    async def _send_events(self, outlet: Outlet, stream: ChatStream) -> None:
        if self._asked.accepted != self._asked.begun:
            self._writer = self._dialect.writer(self._asked.question, self._asked.accepted)
        writer = self._writer
        had = self._asked.characters or 0
        begin = writer.begin()
        self._begin = b"" if had else begin
        while batch := await stream.batch():
            if had:
                before, batch = split(batch, had)
                writer.deltas(before)
                had -= size_of(before)
                self._characters += size_of(before)
            if batch:
                await outlet.write(self._begun() + self._events(writer, batch))
        answer = await stream.answer()
        if had:
            raise Interrupted("The answer broke off, and another lane ended it earlier: send the request again.")
        await outlet.write(self._begun() + writer.end(answer))

    def _begun(self) -> bytes:
        """The events before the first delta, once: a ping while the pool has the request may have sent them."""
        begin, self._begin = self._begin, b""
        return begin

    def _ping(self) -> bytes:
        waiting = " ".join((self._asked.stream.waiting or "").split())
        return self._begun() + self._writer.ping(waiting)

    def _events(self, writer: AnswerWriter, batch: Sequence[TokenDelta]) -> bytes:
        events = writer.deltas(batch)
        if not self._with_ids or not events:
            return events
        self._characters += size_of(batch)
        last = event_id(self._asked.stream.request_id, self._characters)
        return events[:-1] + f"id: {last}\n\n".encode()  # in the last event


def _failure(door: Door, error: Exception) -> Failure:
    if isinstance(error, LlmError):
        return failure_of(error)
    door.client.link.internal_errors.record("gateway", error)
    return INTERNAL


def _headers(asked: Asked, kind: str) -> dict[str, str]:
    headers = {"content-type": kind, "cache-control": "no-store"} | request_id_headers(asked.stream.request_id)
    if kind == "text/event-stream":
        headers["x-accel-buffering"] = "no"  # proxies must pass events on at once
    if waiting := asked.stream.waiting:
        headers["x-tokenlane-waiting"] = " ".join(waiting.split())[:500]
    if (place := asked.stream.place) is not None:
        headers["x-tokenlane-position"] = str(place.position)
        if place.estimate_ms is not None:
            headers["x-tokenlane-starts-in-ms"] = str(place.estimate_ms)
    return headers


def _error_headers(failure: Failure) -> dict[str, str]:
    return {"content-type": "application/json", "cache-control": "no-store", **failure.headers}


def _json(document: object) -> bytes:
    return json.dumps(document, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
