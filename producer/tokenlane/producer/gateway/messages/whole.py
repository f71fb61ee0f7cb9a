"""A complete answer as Anthropic's Message object."""

from __future__ import annotations

from pydantic_core import from_json

from tokenlane.producer.gateway.question import Begun
from tokenlane.routing.contract.answers import Answer, ToolCall, Usage
from tokenlane.routing.contract.errors import UnreadableAnswer

SIGNATURE = "dG9rZW5sYW5l"
"""What stands for the signature of thinking. Clients send it back; nobody checks it."""
_STOP_REASONS = {"length": "max_tokens", "content_filter": "refusal", "tool_calls": "tool_use"}


def message_of(begun: Begun, answer: Answer) -> dict[str, object]:
    """The object of a response that is not streamed.

    Raises:
        UnreadableAnswer: the arguments of a tool call are no JSON object, and the object has no place for anything
            else.
    """
    content: list[dict[str, object]] = []
    if answer.reasoning:
        content.append({"type": "thinking", "thinking": answer.reasoning, "signature": SIGNATURE})
    if answer.text:
        content.append({"type": "text", "text": answer.text})
    for number, call in enumerate(answer.tool_calls):
        name = {"id": tool_use_id(begun, number, call.id), "name": call.name}
        content.append({"type": "tool_use", **name, "input": _input(call, answer)})
    head = {"id": message_id(begun), "type": "message", "role": "assistant", "model": begun.model}
    return {
        **head,
        "content": content,
        "stop_reason": stop_reason(answer),
        "stop_sequence": None,
        "usage": usage_of(answer.usage),
    }


def message_id(begun: Begun) -> str:
    """The id of the message."""
    return f"msg_{begun.request_id}"


def tool_use_id(begun: Begun, number: int, id: str) -> str:
    """The id of a tool call. Some servers send none; the pool's own would be the same in every answer."""
    return id if id not in ("", f"call_{number}") else f"toolu_{begun.request_id}_{number}"


def stop_reason(answer: Answer) -> str:
    """Why the answer ended. Model servers do not say whether a stop sequence did: that is an `end_turn`."""
    reason = _STOP_REASONS.get(answer.finish_reason or "stop", "end_turn")
    return "tool_use" if answer.tool_calls and reason == "end_turn" else reason


def usage_of(usage: Usage) -> dict[str, int]:
    """The usage, as in Anthropic's API: `input_tokens` are those that came from no cache."""
    cached = min(usage.cached_tokens, usage.prompt_tokens)
    return {
        "input_tokens": usage.prompt_tokens - cached,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached,
        "output_tokens": usage.completion_tokens,
    }


def _input(call: ToolCall, answer: Answer) -> dict[str, object]:
    try:
        # An answer that reached max_tokens has the beginning of the arguments, as in Anthropic's API.
        given: object = from_json(call.arguments or "{}", allow_partial=answer.finish_reason == "length")
    except ValueError:
        given = None
    if not isinstance(given, dict):
        raise UnreadableAnswer(
            "The model called a tool with arguments that are no JSON object: ask again, or use a model that is "
            "better at calling tools.",
            lane=answer.lane,
            model=answer.model,
        ).at(request_id=answer.request_id)
    return given
