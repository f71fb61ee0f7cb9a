"""OpenAI's dialect; the dialects of most other servers are subclasses."""

from __future__ import annotations

import base64
import struct
from collections.abc import Mapping, Sequence
from typing import ClassVar

from aiohttp import web
from pydantic import JsonValue

from tokenlane.benches.simulator.dialects.base import Dialect, Page, Work
from tokenlane.benches.simulator.dialects.encoder import Encoder
from tokenlane.benches.simulator.dialects.request_fields import (
    integer,
    parse,
    texts,
)
from tokenlane.benches.simulator.exchange import Exchange
from tokenlane.benches.simulator.model.models import Model
from tokenlane.benches.simulator.model.refusals import Reason, Refused, Words, worded
from tokenlane.benches.simulator.model.text import count_tokens
from tokenlane.benches.simulator.model.vectors import embedding

from .encoder import OpenAiEncoder

_UNABLE = Words(503, "server_error", "The server is currently unable to serve this model.")
_CANNOT = Words(400, "invalid_request_error", "The model `{model}` does not support this.")
_REFUSALS: Mapping[Reason, Words] = {
    "bad_request": Words(400, "invalid_request_error"),
    "model_missing": Words(
        404,
        "invalid_request_error",
        "The model `{model}` does not exist or you do not have access to it.",
        "model_not_found",
    ),
    "too_long": Words(
        400,
        "invalid_request_error",
        "This model's maximum context length is {limit} tokens. However, your messages resulted in {tokens} tokens. "
        "Please reduce the length of the messages.",
        "context_length_exceeded",
    ),
    "unauthorized": Words(401, "invalid_request_error", "Incorrect API key provided.", "invalid_api_key"),
    "overloaded": Words(429, "requests", "Rate limit reached for requests.", "rate_limit_exceeded"),
    "load_failed": _UNABLE,
    "sleeping": _UNABLE,
    "not_loaded": _UNABLE,
    "cannot_chat": _CANNOT,
    "cannot_embed": _CANNOT,
    "cannot_see": _CANNOT,
    "cannot_think": _CANNOT,
}


class OpenAiDialect(Dialect):
    """A remote endpoint with OpenAI's dialect and no additions."""

    encoder: ClassVar[type[OpenAiEncoder]] = OpenAiEncoder
    owner: ClassVar[str] = "simulator"

    def encoders(self) -> Mapping[str, Encoder]:
        """Chats; self-hosted servers complete prompts too."""
        return {"/v1/chat/completions": self.encoder()}

    def works(self) -> Mapping[str, Work]:
        """Embeddings."""
        return {"POST /v1/embeddings": self.embeddings}

    def pages(self) -> Mapping[str, Page]:
        """The list of models."""
        return {"GET /v1/models": self.list_models}

    def error(self, status: int, error: JsonValue) -> JsonValue:
        """An `error` object."""
        plain: JsonValue = {"message": "simulated", "type": "simulated", "param": None, "code": status}
        return {"error": plain if error is None else error}

    def refusal(self, refused: Refused) -> web.Response:
        """OpenAI's words."""
        words = worded(refused, _REFUSALS)
        document: JsonValue = {
            "message": words.message,
            "type": words.kind,
            "param": refused.parameter,
            "code": words.code,
        }
        return web.json_response({"error": document}, status=words.status)

    async def list_models(self, _: web.Request) -> web.Response:
        """`/v1/models`."""
        listed: list[JsonValue] = [self.listed(model) for model in self.models.on_disk.values()]
        return web.json_response({"object": "list", "data": listed})

    def listed(self, model: Model) -> JsonValue:
        """Return a model's entry in the list."""
        return {"id": model.name, "object": "model", "created": 1_760_000_000, "owned_by": self.owner}

    async def embeddings(self, exchange: Exchange) -> web.StreamResponse:
        """`/v1/embeddings`."""
        body = parse(await exchange.request.read())
        model = self.embedder(str(body.get("model") or ""))
        inputs = texts(body.get("input"))
        if inputs is None:
            raise Refused("bad_request", "input must be a string or a list of strings", parameter="input")
        instance = await self.engine.instance(model, exchange.script)
        kept = self.kept(model, integer(body, "dimensions"))
        counts = [count_tokens(text) for text in inputs]
        if counts and max(counts) > self.context(instance):
            raise Refused("too_long", model=model.name, tokens=max(counts), limit=self.context(instance))
        with self.models.using(instance):
            async with self.engine.slot(exchange.received):
                vectors = [embedding(model.name, text, model.dimensions, kept) for text in inputs]
        plain = self.floats_only or body.get("encoding_format") != "base64"
        data: list[JsonValue] = [
            {"object": "embedding", "index": index, "embedding": [*vector] if plain else _base64(vector)}
            for index, vector in enumerate(vectors)
        ]
        usage: JsonValue = {"prompt_tokens": sum(counts), "total_tokens": sum(counts)}
        name = exchange.script.answers_as or model.name
        return web.json_response({"object": "list", "data": data, "model": name, "usage": usage, **self.stamp()})

    def kept(self, model: Model, wanted: int | None) -> int | None:
        """How many numbers of a vector are kept; None: all.

        Raises:
            Refused: the model has no say in that.
        """
        return wanted

    floats_only: ClassVar[bool] = False
    """`encoding_format` is ignored."""

    def stamp(self) -> dict[str, JsonValue]:
        """Return the other fields of a list of embeddings."""
        return {}

    def embedder(self, name: str) -> Model:
        """The model that makes embeddings.

        Raises:
            Refused: there is none of this name, or it makes none.
        """
        model = self.models.find(name)
        if model is None:
            raise Refused("model_missing", model=name)
        if not model.embeds:
            raise Refused("cannot_embed", model=name)
        return model


def _base64(vector: Sequence[float]) -> str:
    """Return a vector as little-endian 32-bit floats in base64."""
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
