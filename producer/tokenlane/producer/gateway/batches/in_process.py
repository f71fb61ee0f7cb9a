"""Sends a request to an ASGI application in this process: a line of a batch is answered as its request would be."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from pydantic import JsonValue
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Scope

from tokenlane.producer.gateway.access.caller import Caller

_CALLER = "tokenlane.caller"


@dataclass(frozen=True)
class Reply:
    """A complete response. `body`: its JSON; None if it has none."""

    status: int
    headers: Mapping[str, str]
    body: JsonValue = field(repr=False)

    @property
    def code(self) -> str:
        """The code of the error; empty if the body has none."""
        error = self.body.get("error") if isinstance(self.body, dict) else None
        code = error.get("code") if isinstance(error, dict) else None
        return code if isinstance(code, str) else ""


async def caller_within(request: Request) -> Caller:
    """The caller of a request from this process."""
    caller = request.scope[_CALLER]
    assert isinstance(caller, Caller)
    return caller


async def post(app: ASGIApp, path: str, body: JsonValue, headers: Mapping[str, str], caller: Caller) -> Reply:
    """Post a body, and return the response. Cancelling the call cancels the work for it."""
    data = json.dumps(body).encode()
    given = {"content-type": "application/json", "content-length": str(len(data)), **headers}
    scope: Scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in given.items()],
        "client": None,
        "server": None,
        _CALLER: caller,
    }
    unread: list[Message] = [{"type": "http.request", "body": data, "more_body": False}]
    status, answered, content = 500, dict[str, str](), bytearray()

    async def receive() -> Message:
        if unread:
            return unread.pop()
        await asyncio.Event().wait()  # this client never leaves by itself
        raise AssertionError

    async def send(message: Message) -> None:
        nonlocal status
        if message["type"] == "http.response.start":
            status = message["status"]
            answered.update((name.decode("latin-1"), value.decode("latin-1")) for name, value in message["headers"])
        else:
            content.extend(message.get("body", b""))

    await app(scope, receive, send)
    try:
        answer: JsonValue = json.loads(content)
    except ValueError:
        answer = None
    return Reply(status, answered, answer)
