"""Logs requests and answers if `SC_DEBUG=llm` is set. No other module ever logs their content.

Secrets are masked: the values of fields with names such as `api_key`, and text that looks like a key.
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
    """Log a chat request, without the fields that it leaves unset."""
    fields = mask_secrets(request.model_dump(mode="json", exclude_unset=True))
    logger.info("request of attempt %d to %s: %s", attempt, model, json.dumps(fields, ensure_ascii=False))


async def log_answer(
    stream: AsyncGenerator[TokenDelta, None], request_id: str, attempt: int
) -> AsyncGenerator[TokenDelta, None]:
    """Yield the deltas of the stream. Log them as one answer when the stream ends, fails or is closed."""
    deltas: list[TokenDelta] = []
    try:
        async with aclosing(stream):
            async for delta in stream:
                deltas.append(delta.model_copy())
                yield delta
    finally:
        # The answer is logged as a whole, because a key may have arrived in several pieces.
        answer: dict[str, JsonValue] = {
            "text": "".join(delta.text for delta in deltas),
            "reasoning": "".join(delta.reasoning for delta in deltas),
            "tool_calls": [call.model_dump(mode="json") for delta in deltas for call in delta.tool_calls],
            "deltas": len(deltas),
        }
        text = json.dumps(mask_secrets(answer), ensure_ascii=False)
        logger.info("answer to %s in attempt %d: %s", request_id, attempt, text)


def mask_secrets(value: JsonValue) -> JsonValue:
    """Return the value with `***` in place of secrets."""
    if isinstance(value, dict):
        return {name: "***" if _SECRET_NAME.search(name) else mask_secrets(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [mask_secrets(inner) for inner in value]
    if isinstance(value, str):
        return _SECRET_TEXT.sub("***", value)
    return value
