"""A complete answer as a Chat Completions object."""

from __future__ import annotations

from tokenlane.producer.gateway.question import Begun
from tokenlane.routing.contract.answers import Answer, Usage


def completion(begun: Begun, answer: Answer) -> dict[str, object]:
    """The object of a response that is not streamed."""
    message: dict[str, object] = {"role": "assistant", "content": answer.text or None, "refusal": None}
    if answer.tool_calls:
        message["tool_calls"] = [call.as_openai() for call in answer.tool_calls]
    if answer.reasoning:
        message["reasoning_content"] = answer.reasoning
    choice = {"index": 0, "message": message, "finish_reason": answer.finish_reason or "stop", "logprobs": None}
    return {
        "id": f"chatcmpl-{begun.request_id}",
        "object": "chat.completion",
        "created": begun.created_s,
        "model": begun.model,
        "choices": [choice],
        "usage": usage_of(answer.usage),
    }


def usage_of(usage: Usage) -> dict[str, object]:
    """The usage, as in OpenAI's API."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }
