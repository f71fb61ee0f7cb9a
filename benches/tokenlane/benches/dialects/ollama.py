"""Ollama's own dialect."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import ClassVar

from aiohttp import web
from pydantic import JsonValue

from .dialect import Dialect, Page, Spoken

__all__ = ["OllamaDialect"]

_MOMENT = "2026-01-01T00:00:00Z"


class OllamaDialect(Dialect):
    """A line of JSON a piece, the last with `done`. Models whose names begin with `embed` cannot chat."""

    stream_type: ClassVar[str] = "application/x-ndjson"
    chat_path: ClassVar[str] = "/api/chat"
    ping: ClassVar[bytes] = b"\n"  # the real one has none
    malformed: ClassVar[bytes] = b'{"message": {"content": \n'
    huge_start: ClassVar[bytes] = b""

    def wanted_tokens(self, body: Mapping[str, JsonValue]) -> int | None:
        """`num_predict`."""
        options = body.get("options")
        limit = options.get("num_predict") if isinstance(options, dict) else None
        return limit if isinstance(limit, int) and limit >= 0 else None

    def piece(self, answer: Spoken, text: str) -> bytes:
        """A line that is not the last."""
        return _chat_line(answer, text, done=False)

    def ending(self, answer: Spoken, tokens: int) -> Iterator[bytes]:
        """The line with `done`, if the script has a finish reason."""
        script = answer.script
        if script.finish_reason is not None:
            counts = {"prompt_eval_count": answer.prompt_tokens, "eval_count": tokens} if script.usage else {}
            yield _chat_line(answer, "", done=True, done_reason=script.finish_reason, total_duration=1, **counts)

    def error(self, status: int, error: JsonValue) -> JsonValue:
        """Its errors are plain text."""
        return {"error": "simulated" if error is None else error}

    def error_in_stream(self, error: JsonValue) -> Iterator[bytes]:
        """One line, and nothing after it."""
        yield _line(self.error(500, error))

    def pages(self) -> Mapping[str, Page]:
        """Version, models, and what is loaded: everything that chats."""
        return {
            "GET /api/version": self._version,
            "GET /api/tags": self._tags,
            "POST /api/show": self._show,
            "GET /api/ps": self._ps,
        }

    async def _version(self, _: web.Request) -> web.Response:
        return web.json_response({"version": "0.9.3"})

    async def _tags(self, _: web.Request) -> web.Response:
        return web.json_response({"models": [_listed(name) for name in self.models]})

    async def _ps(self, _: web.Request) -> web.Response:
        return web.json_response({"models": [_listed(name) for name in self.models if _chats(name)]})

    async def _show(self, request: web.Request) -> web.Response:
        name = (await request.json()).get("model", "")
        if name not in self.models:
            return web.json_response({"error": f"model '{name}' not found"}, status=404)
        can = ["completion", "tools"] if _chats(name) else ["embedding"]
        return web.json_response({"details": _details(), "model_info": {}, "capabilities": can})


def _chats(name: str) -> bool:
    return not name.startswith("embed")


def _listed(name: str) -> dict[str, JsonValue]:
    digest = hashlib.sha256(name.encode()).hexdigest()
    return {"name": name, "model": name, "size": 1000, "digest": digest, "details": _details()}


def _details() -> dict[str, JsonValue]:
    return {"format": "gguf", "family": "simulated", "parameter_size": "1B", "quantization_level": "Q4_K_M"}


def _chat_line(answer: Spoken, text: str, **more: JsonValue) -> bytes:
    message: JsonValue = {"role": "assistant", "content": text}
    return _line({"model": answer.model, "created_at": _MOMENT, "message": message, **more})


def _line(value: JsonValue) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode() + b"\n"
