"""OpenAI's embeddings: https://platform.openai.com/docs/api-reference/embeddings."""

from __future__ import annotations

import sys
from array import array
from base64 import b64encode
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict, JsonValue
from pydantic_core import to_json
from starlette.requests import Request
from starlette.responses import Response

from tokenlane.producer.embeddings import Embeddings, EmbedOptions
from tokenlane.routing.contract.envelope import Quota

from .answering import WholeAnswer, unless_refused
from .dialect import JsonBody
from .door import Door, addressed
from .failures import Refused
from .http.json_body import read_json, validated
from .openai_errors import error_body

_HEADERS = {"content-type": "application/json", "cache-control": "no-store"}


class _Body(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True, hide_input_in_errors=True)

    model: str | None = None
    input: JsonValue
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = None
    user: str | None = None


@dataclass(frozen=True)
class _Asked:
    """What a client asks. `to`: the role."""

    texts: list[str]
    is_base64: bool
    to: str
    agent: str
    quota: Quota | None
    options: EmbedOptions


async def embeddings(door: Door, request: Request) -> Response:
    """Answer a request for embeddings."""
    asked = await unless_refused(error_body, _read(door, request))
    if isinstance(asked, Response):
        return asked

    async def work() -> bytes:
        found = await door.client.embed(
            asked.texts, role=asked.to, agent=asked.agent, quota=asked.quota, **asked.options
        )
        return to_json(_document(found, is_base64=asked.is_base64))

    return WholeAnswer(door, work, error_body, lambda: _HEADERS)


async def _read(door: Door, request: Request) -> _Asked:
    caller = await door.caller_of(request)  # before the body
    body = _validated(await read_json(request))
    options: EmbedOptions = {} if body.dimensions is None else {"dimensions": body.dimensions}
    to, common = await addressed(door, caller, body.model or "", request.headers, options)
    texts, is_base64 = _texts(body.input), body.encoding_format == "base64"
    return _Asked(texts, is_base64, to, caller.user(body.user), caller.quota, {**options, **common})


def _validated(body: JsonBody) -> _Body:
    asked = validated(_Body, body)
    for name, value in (asked.model_extra or {}).items():
        if value is not None:
            shown = name[:64] if name.isidentifier() else "A field"
            raise Refused(400, "unknown_parameter", f"`{shown}` is not known here. Leave it out.", param=shown)
    return asked


def _texts(given: JsonValue) -> list[str]:
    if isinstance(given, str):
        return [given]
    texts = [text for text in given if isinstance(text, str)] if isinstance(given, list) else []
    if not isinstance(given, list) or len(texts) < len(given):
        what = "`input` must be a text or a list of texts: a pool's models have other tokens than OpenAI's."
        raise Refused(400, "unsupported_parameter", what, param="input")
    return texts


def _document(found: Embeddings, *, is_base64: bool) -> dict[str, object]:
    """The response. `model` is the model that made the vectors, since only vectors of one model can be compared."""
    encode = _base64 if is_base64 else list
    return {
        "object": "list",
        "data": [
            {"object": "embedding", "index": index, "embedding": encode(vector)}
            for index, vector in enumerate(found.vectors)
        ],
        "model": found.model,
        "usage": {"prompt_tokens": found.usage.prompt_tokens, "total_tokens": found.usage.prompt_tokens},
        "x_tokenlane": {"request": found.request_id, "lane": found.lane, "is_fallback": found.is_fallback},
    }


def _base64(vector: array[float]) -> str:
    """The vector as little-endian float32."""
    if sys.byteorder == "big":
        vector = array("f", vector)
        vector.byteswap()
    return b64encode(vector).decode()
