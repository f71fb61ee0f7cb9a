"""Logs requests and answers if `SC_DEBUG=llm` asks for that. No other module ever logs content.

Secrets are masked: the values of fields with a name such as `api_key`, and any text that looks like a key.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import AsyncGenerator
from contextlib import aclosing

from pydantic import JsonValue

from tokenlane.routing.contract.answers import TokenDelta
from tokenlane.routing.contract.requests import ChatRequest

logger = logging.getLogger("tokenlane.worker.attempt.transcript")

_SECRET_NAME = re.compile(r"(?i)(api[_-]?key|authorization|credential|passw(or)?d|secret|(^|_)token$)")
_SECRET_TEXT = re.compile(r"(?i)\bbearer\s+\S+|\b(sk|hf|ghp|xox[abp])[-_][A-Za-z0-9_-]{16,}")


def log_request(request: ChatRequest, attempt: int, model: str) -> None:
    """Log a request in the form that the model server gets."""
    fields = masked(request.model_dump(mode="json", exclude_unset=True))
    logger.info("request of attempt %d to %s: %s", attempt, model, json.dumps(fields, ensure_ascii=False))


async def logged(
    stream: AsyncGenerator[TokenDelta, None], request_id: str, attempt: int
) -> AsyncGenerator[TokenDelta, None]:
    """Pass the stream on; log the answer when it ends, however that happens."""
    deltas: list[TokenDelta] = []
    try:
        async with aclosing(stream):
            async for delta in stream:
                deltas.append(delta.model_copy())
                yield delta
    finally:
        # Logged in one piece, to mask a key that arrived in several pieces.
        answer: dict[str, JsonValue] = {
            "text": "".join(delta.text for delta in deltas),
            "reasoning": "".join(delta.reasoning for delta in deltas),
            "tool_calls": [call.model_dump(mode="json") for delta in deltas for call in delta.tool_calls],
            "deltas": len(deltas),
        }
        text = json.dumps(masked(answer), ensure_ascii=False)
        logger.info("answer to %s in attempt %d: %s", request_id, attempt, text)


def masked(value: JsonValue) -> JsonValue:
    """The value, with `***` in place of secrets."""
    if isinstance(value, dict):
        return {name: "***" if _SECRET_NAME.search(name) else masked(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [masked(inner) for inner in value]
    if isinstance(value, str):
        return _SECRET_TEXT.sub("***", value)
    return value
