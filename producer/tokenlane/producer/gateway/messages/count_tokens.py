"""Estimates how many tokens a Messages request has, for clients that ask before they send it."""

from __future__ import annotations

from pydantic import JsonValue, ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from tokenlane.producer.gateway.answering import unless_refused
from tokenlane.producer.gateway.anthropic_errors import error_body
from tokenlane.producer.gateway.door import Door
from tokenlane.producer.gateway.failures import Refused
from tokenlane.producer.gateway.http.json_body import read_json
from tokenlane.producer.invalid_requests import explain
from tokenlane.routing.contract.prompt_size import estimated_tokens
from tokenlane.routing.contract.requests import ChatRequest

from .request import read


async def count_tokens(door: Door, request: Request) -> Response:
    """Answer with the estimate. The model's own count is known only to its server."""

    async def read_body() -> int:
        await door.caller_of(request)
        return _estimate(await read_json(request))

    tokens = await unless_refused(error_body, read_body())
    if isinstance(tokens, Response):
        return tokens
    return JSONResponse({"input_tokens": tokens}, headers={"x-tokenlane-estimate": "true"})


def _estimate(body: dict[str, JsonValue]) -> int:
    question = read({"max_tokens": 1, **body})
    try:
        request = ChatRequest.model_validate(
            {"role": "default", "messages": question.messages, "tools": question.options.get("tools")}
        )
    except ValidationError as error:
        raise Refused(400, "bad_request", explain(error)) from None
    return estimated_tokens(request)
