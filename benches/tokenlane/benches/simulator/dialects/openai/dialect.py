"""OpenAI's dialect, which the dialects of most other servers extend."""

from __future__ import annotations

import base64
import struct
from collections.abc import Mapping, Sequence
from typing import ClassVar

from aiohttp import web
from pydantic import JsonValue

from tokenlane.benches.simulator.dialects.base import Dialect, InfoHandler, LoggedHandler
from tokenlane.benches.simulator.dialects.encoder import Encoder
from tokenlane.benches.simulator.dialects.request_fields import (
    integer,
    parse,
    texts,
)
from tokenlane.benches.simulator.exchange import Exchange
from tokenlane.benches.simulator.model.models import Model
from tokenlane.benches.simulator.model.refusals import Reason, Refused, Wording, wording_of
from tokenlane.benches.simulator.model.text import count_tokens
from tokenlane.benches.simulator.model.vectors import embedding

from .encoder import OpenAiEncoder

_UNABLE = Wording(503, "server_error", "The server is currently unable to serve this model.")
_CANNOT = Wording(400, "invalid_request_error", "The model `{model}` does not support this.")
_REFUSALS: Mapping[Reason, Wording] = {
    "bad_request": Wording(400, "invalid_request_error"),
    "model_missing": Wording(
        404,
        "invalid_request_error",
        "The model `{model}` does not exist or you do not have access to it.",
        "model_not_found",
    ),
    "too_long": Wording(
        400,
        "invalid_request_error",
        "This model's maximum context length is {limit} tokens. However, your messages resulted in {tokens} tokens. "
        "Please reduce the length of the messages.",
        "context_length_exceeded",
    ),
    "unauthorized": Wording(401, "invalid_request_error", "Incorrect API key provided.", "invalid_api_key"),
    "overloaded": Wording(429, "requests", "Rate limit reached for requests.", "rate_limit_exceeded"),
    "load_failed": _UNABLE,
    "sleeping": _UNABLE,
    "not_loaded": _UNABLE,
    "cannot_chat": _CANNOT,
    "cannot_embed": _CANNOT,
    "cannot_see": _CANNOT,
    "cannot_think": _CANNOT,
}


class OpenAiDialect(Dialect):
    """A server with exactly OpenAI's API."""

    encoder: ClassVar[type[OpenAiEncoder]] = OpenAiEncoder
    owner: ClassVar[str] = "simulator"

    def encoders(self) -> Mapping[str, Encoder]:
        """Return the encoder of chats."""
        return {"/v1/chat/completions": self.encoder()}

    def logged_handlers(self) -> Mapping[str, LoggedHandler]:
        """Return the handler for embeddings."""
        return {"POST /v1/embeddings": self.embeddings}

    def handlers(self) -> Mapping[str, InfoHandler]:
        """Return the handler that lists the models."""
        return {"GET /v1/models": self.list_models}

    def scripted_error(self, status: int, error: JsonValue) -> JsonValue:
        """Return an `error` object."""
        plain: JsonValue = {"message": "simulated", "type": "simulated", "param": None, "code": status}
        return {"error": plain if error is None else error}

    def refusal(self, refused: Refused) -> web.Response:
        """Return the refusal as OpenAI words it."""
        words = wording_of(refused, _REFUSALS)
        document: JsonValue = {
            "message": words.message,
            "type": words.kind,
            "param": refused.parameter,
            "code": words.code,
        }
        return web.json_response({"error": document}, status=words.status)

    async def list_models(self, _: web.Request) -> web.Response:
        """Answer `/v1/models`."""
        listed: list[JsonValue] = [self.model_entry(model) for model in self.models.on_disk.values()]
        return web.json_response({"object": "list", "data": listed})

    def model_entry(self, model: Model) -> JsonValue:
        """Return the entry of a model in the list of models."""
        return {"id": model.name, "object": "model", "created": 1_760_000_000, "owned_by": self.owner}

    async def embeddings(self, exchange: Exchange) -> web.StreamResponse:
        """Answer `/v1/embeddings`."""
        body = parse(await exchange.request.read())
        model = self.embedding_model_for(str(body.get("model") or ""))
        inputs = texts(body.get("input"))
        if inputs is None:
            raise Refused("bad_request", "input must be a string or a list of strings", parameter="input")
        instance = await self.engine.instance(model, exchange.script)
        length = self.vector_length(model, integer(body, "dimensions"))
        counts = [count_tokens(text) for text in inputs]
        if counts and max(counts) > self.context_limit(instance):
            raise Refused("too_long", model=model.name, tokens=max(counts), limit=self.context_limit(instance))
        with self.models.using(instance):
            async with self.engine.slot(exchange.received):
                vectors = [embedding(model.name, text, model.dimensions, length) for text in inputs]
        plain = self.floats_only or body.get("encoding_format") != "base64"
        data: list[JsonValue] = [
            {"object": "embedding", "index": index, "embedding": [*vector] if plain else _base64(vector)}
            for index, vector in enumerate(vectors)
        ]
        usage: JsonValue = {"prompt_tokens": sum(counts), "total_tokens": sum(counts)}
        name = exchange.script.answers_as or model.name
        return web.json_response(
            {"object": "list", "data": data, "model": name, "usage": usage, **self.embeddings_fields()}
        )

    def vector_length(self, model: Model, wanted: int | None) -> int | None:
        """Return the number of dimensions of an embedding; None: all dimensions of the model.

        Args:
            wanted: the number in the request, if any.

        Raises:
            Refused: the model's embeddings cannot be shortened.
        """
        return wanted

    floats_only: ClassVar[bool] = False
    """Whether embeddings are always lists of numbers, whatever `encoding_format` the request has."""

    def embeddings_fields(self) -> dict[str, JsonValue]:
        """Return additional fields of a list of embeddings."""
        return {}

    def embedding_model_for(self, name: str) -> Model:
        """Return the model that makes the embeddings.

        Raises:
            Refused: there is no model with this name, or it makes no embeddings.
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
