"""The object `response`, which the whole answer and many events consist of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias

from pydantic import JsonValue

from tokenlane.producer.gateway.failures import Failure
from tokenlane.producer.gateway.question import Begun
from tokenlane.routing.contract.answers import Answer, Usage

Status: TypeAlias = Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]

PREFIX = "resp_"
"""What stands before the id of the pool's request in a response's id."""
_UNKNOWN: Mapping[str, JsonValue] = {
    "background": True,
    "instructions": None,
    "max_output_tokens": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "previous_response_id": None,
    "prompt_cache_key": None,
    "reasoning": {"effort": None, "summary": None},
    "safety_identifier": None,
    "service_tier": "default",
    "temperature": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "text": {"format": {"type": "text"}},
    "tool_choice": "auto",
    "tools": [],
    "top_p": 1.0,
    "truncation": "disabled",
}
"""The fields that repeat a request, for a response that another gateway was asked for."""
_INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}


def response_id(request_id: str) -> str:
    """The id of the response to a request of the pool."""
    return PREFIX + request_id


def status_of(answer: Answer) -> Status:
    """How a complete answer ended."""
    return "incomplete" if answer.finish_reason in _INCOMPLETE else "completed"


def failed_as(failure: Failure) -> Status:
    """How a response that failed ended."""
    return "cancelled" if failure.code == "cancelled" else "failed"


def snapshot(
    begun: Begun,
    shown: Mapping[str, JsonValue],
    status: Status,
    output: Sequence[Mapping[str, object]] = (),
    *,
    answer: Answer | None = None,
    failure: Failure | None = None,
) -> dict[str, object]:
    """A response as it stands.

    Args:
        shown: the fields that repeat the request; empty if this gateway does not know them.
        answer: the complete answer; None if it is not complete.
        failure: why the response failed; None if it did not.
    """
    reason = _INCOMPLETE.get(answer.finish_reason or "") if answer else None
    return {
        "id": response_id(begun.request_id),
        "object": "response",
        "created_at": begun.created_s,
        "completed_at": None,
        "status": status,
        "error": None if failure is None else error_of(failure),
        "incomplete_details": {"reason": reason} if reason else None,
        "model": begun.model or (answer.model if answer else ""),
        "output": list(output),
        "usage": None if answer is None else usage_of(answer.usage),
        "store": False,
        "max_tool_calls": None,
        "top_logprobs": 0,
        **(shown or _UNKNOWN),
    }


def error_of(failure: Failure) -> dict[str, object]:
    """An error, as a response has it."""
    return {"code": failure.code, "message": f"{failure.message}\n{failure.detail}".rstrip()}


def usage_of(usage: Usage) -> dict[str, object]:
    """The usage. Model servers count reasoning with the output."""
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }
