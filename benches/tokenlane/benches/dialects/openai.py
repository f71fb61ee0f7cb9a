"""OpenAI's dialect, with the pages of llama.cpp's server."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import ClassVar

from aiohttp import web
from pydantic import JsonValue

from .dialect import Dialect, Page, Spoken

__all__ = ["OpenAiDialect"]


class OpenAiDialect(Dialect):
    """Server-sent events, ended by `[DONE]`."""

    stream_type: ClassVar[str] = "text/event-stream"
    chat_path: ClassVar[str] = "/v1/chat/completions"
    ping: ClassVar[bytes] = b": ping\n\n"
    malformed: ClassVar[bytes] = b'data: {"choices": [{"delta": \n\n'
    huge_start: ClassVar[bytes] = b"data: "

    def wanted_tokens(self, body: Mapping[str, JsonValue]) -> int | None:
        """`max_tokens`."""
        limit = body.get("max_tokens")
        return limit if isinstance(limit, int) else None

    def piece(self, answer: Spoken, text: str) -> bytes:
        """A chunk with one delta."""
        return _chunk(answer, [{"index": 0, "delta": {"content": text}, "finish_reason": None}])

    def ending(self, answer: Spoken, tokens: int) -> Iterator[bytes]:
        """The finish mark, the usage, `[DONE]`, each if the script wants it."""
        script = answer.script
        if script.finish_reason is not None:
            yield _chunk(answer, [{"index": 0, "delta": {}, "finish_reason": script.finish_reason}])
        if script.usage:
            usage: JsonValue = {
                "prompt_tokens": answer.prompt_tokens,
                "completion_tokens": tokens,
                "total_tokens": answer.prompt_tokens + tokens,
            }
            yield _chunk(answer, [], usage=usage)
        if script.done:
            yield _event(b"[DONE]")

    def error(self, status: int, error: JsonValue) -> JsonValue:
        """An `error` object."""
        plain: JsonValue = {"message": "simulated", "type": "simulated", "code": status}
        return {"error": plain if error is None else error}

    def error_in_stream(self, error: JsonValue) -> Iterator[bytes]:
        """An event with the error, and then `[DONE]`, as vLLM and TGI do."""
        yield _event(json.dumps(self.error(500, error)).encode())
        yield _event(b"[DONE]")

    def pages(self) -> Mapping[str, Page]:
        """The list of models, and llama.cpp's own pages."""
        return {
            "GET /v1/models": self._list_models,
            "GET /props": self._props,
            "GET /slots": self._list_slots,
            "GET /health": self._health,
        }

    async def _list_models(self, _: web.Request) -> web.Response:
        listed = [{"id": name, "object": "model", "owned_by": "llamacpp"} for name in self.models]
        return web.json_response({"object": "list", "data": listed})

    async def _props(self, _: web.Request) -> web.Response:
        return web.json_response({"total_slots": len(self.slots()), "build_info": "simulator", "chat_template": ""})

    async def _list_slots(self, _: web.Request) -> web.Response:
        slots = enumerate(self.slots())
        return web.json_response(
            [{"id": place, "is_processing": index is not None, "request": index} for place, index in slots]
        )

    async def _health(self, _: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})


def _chunk(answer: Spoken, choices: list[JsonValue], **more: JsonValue) -> bytes:
    chunk = {
        "id": f"chatcmpl-{answer.index}",
        "object": "chat.completion.chunk",
        "model": answer.model,
        "choices": choices,
        **more,
    }
    return _event(json.dumps(chunk, ensure_ascii=False).encode())


def _event(data: bytes) -> bytes:
    return b"data: " + data + b"\n\n"
