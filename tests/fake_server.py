"""A model server of the test's own making: what it answers, and what it was asked."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from tests.loopback import served

from tokenlane.config.settings.values import LaneSettings
from tokenlane.routing.contract.requests import ChatRequest
from tokenlane.worker.providers import LlmProvider, default_registry

__all__ = ["FakeServer", "Reply", "answer_of", "ask", "driven", "fake_server", "ndjson", "sse"]


@dataclass(frozen=True)
class Reply:
    """One answer. A `body` that is no bytes is sent as JSON."""

    body: Any = b""
    status: int = 200
    kind: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)


Answering = Reply | Callable[[Any], Reply]


@dataclass
class FakeServer:
    """What it answers, by `METHOD /path`; all else is a 404. `asked`: the bodies of what was posted, by path."""

    url: str
    answers: dict[str, Answering]
    asked: list[tuple[str, Any]]

    def last(self, path: str) -> Any:
        """The newest body posted there."""
        return next(body for asked, body in reversed(self.asked) if asked == path)


@asynccontextmanager
async def fake_server(answers: Mapping[str, Answering | Mapping[str, Any]]) -> AsyncIterator[FakeServer]:
    """Serve these on a free port. A mapping is a page of JSON."""
    asked: list[tuple[str, Any]] = []
    known = {
        path: reply if isinstance(reply, Reply) or callable(reply) else Reply(reply) for path, reply in answers.items()
    }

    async def answer(request: web.Request) -> web.Response:
        body = await request.read()
        question = json.loads(body) if body else None
        if request.method == "POST":
            asked.append((request.path, question))
        reply = known.get(f"{request.method} {request.path}", Reply({"detail": "Not Found"}, 404))
        if not isinstance(reply, Reply):
            reply = reply(question)
        said = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body, ensure_ascii=False).encode()
        return web.Response(body=said, status=reply.status, headers={"Content-Type": reply.kind, **reply.headers})

    app = web.Application(client_max_size=64 * 1024 * 1024)
    app.router.add_route("*", "/{path:.*}", answer)
    async with served(app) as url:
        yield FakeServer(url, known, asked)


@asynccontextmanager
async def driven(
    provider: str, answers: Mapping[str, Answering | Mapping[str, Any]], **settings: Any
) -> AsyncIterator[tuple[Any, FakeServer]]:
    """A provider of that name on such a model server."""
    async with fake_server(answers) as server:
        async with default_registry().create(LaneSettings("gpu0", provider, server.url, **settings)) as opened:
            yield opened, server


def ask(text: str = "q", **options: object) -> ChatRequest:
    """A request with one question."""
    return ChatRequest.model_validate({"role": "r", "messages": [{"role": "user", "content": text}], **options})


def sse(*events: object, done: bool = True) -> Reply:
    """A stream of events, each JSON; ended by `[DONE]`."""
    said = [event if isinstance(event, bytes) else json.dumps(event, ensure_ascii=False).encode() for event in events]
    stream = b"".join(b"data: " + event + b"\n\n" for event in [*said, *([b"[DONE]"] if done else [])])
    return Reply(stream, kind="text/event-stream")


def ndjson(*lines: object) -> Reply:
    """A stream of lines of JSON."""
    stream = b"".join(json.dumps(line, ensure_ascii=False).encode() + b"\n" for line in lines)
    return Reply(stream, kind="application/x-ndjson")


async def answer_of(provider: LlmProvider, request: ChatRequest, model: str = "m", resume: str | None = None) -> str:
    """The text of the answer."""
    return "".join([delta.text async for delta in provider.chat(request, model, resume)])
