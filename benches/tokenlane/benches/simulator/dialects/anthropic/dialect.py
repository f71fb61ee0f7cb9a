"""Anthropic's dialect: messages, the counting of their tokens, and the list of models."""

from __future__ import annotations

from collections.abc import Mapping

from aiohttp import web
from pydantic import JsonValue

from tokenlane.benches.simulator.dialects.base import Dialect, InfoHandler
from tokenlane.benches.simulator.dialects.encoder import Encoder
from tokenlane.benches.simulator.dialects.request_fields import parse
from tokenlane.benches.simulator.model.answer import Ask
from tokenlane.benches.simulator.model.refusals import Reason, Refused, Wording, wording_of

from .encoder import MessagesEncoder, error_document, error_type
from .request import conversation

_UNABLE = Wording(529, "overloaded_error", "Overloaded")
_REFUSALS: Mapping[Reason, Wording] = {
    "bad_request": Wording(400, "invalid_request_error"),
    "model_missing": Wording(404, "not_found_error", "model: {model}"),
    "too_long": Wording(400, "invalid_request_error", "prompt is too long: {tokens} tokens > {limit} maximum"),
    "unauthorized": Wording(401, "authentication_error", "invalid x-api-key"),
    "overloaded": Wording(429, "rate_limit_error", "This request would exceed your rate limit."),
    "load_failed": _UNABLE,
    "sleeping": _UNABLE,
    "not_loaded": _UNABLE,
    "cannot_see": Wording(400, "invalid_request_error", "{model} does not support image input."),
}


class AnthropicDialect(Dialect):
    """A server with Anthropic's API. No worker can use it: it shows what our own doors must send."""

    def encoders(self) -> Mapping[str, Encoder]:
        """Return the encoder of messages."""
        return {"/v1/messages": MessagesEncoder()}

    def handlers(self) -> Mapping[str, InfoHandler]:
        """Return the handlers that count tokens and list the models."""
        return {"POST /v1/messages/count_tokens": self._count_tokens, "GET /v1/models": self._list_models}

    def sends_key(self, request: web.Request, key: str) -> bool:
        """Whether the key is in Anthropic's own header or is a bearer's token."""
        return request.headers.get("x-api-key") == key or super().sends_key(request, key)

    def scripted_error(self, status: int, error: JsonValue) -> JsonValue:
        """Return an error of the type that belongs to the status."""
        return error_document(status, error)

    def refusal(self, refused: Refused) -> web.Response:
        """Return the refusal as Anthropic words it."""
        words = wording_of(refused, _REFUSALS)
        told: JsonValue = {"type": words.kind, "message": words.message}
        return web.json_response(error_document(words.status, told), status=words.status)

    def unknown_path(self, request: web.Request) -> web.Response:
        """Return the error for an unknown path."""
        told: JsonValue = {"type": error_type(404), "message": "Not found"}
        return web.json_response(error_document(404, told), status=404)

    async def _count_tokens(self, request: web.Request) -> web.Response:
        body = parse(await request.read())
        turns, prefill = conversation(body)
        ask = Ask(str(body.get("model") or ""), turns, prefill)
        self.model_for(ask)
        return web.json_response({"input_tokens": ask.prompt_tokens})

    async def _list_models(self, _: web.Request) -> web.Response:
        names = [*self.models.on_disk]
        data = [
            {"type": "model", "id": name, "display_name": name, "created_at": "2026-01-01T00:00:00Z"} for name in names
        ]
        return web.json_response(
            {
                "data": data,
                "has_more": False,
                "first_id": names[0] if names else None,
                "last_id": names[-1] if names else None,
            }
        )
