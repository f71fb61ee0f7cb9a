"""A complete answer as a Chat Completions object."""

from __future__ import annotations

from tokenlane.producer.gateway.question import Begun
from tokenlane.routing.contract.answers import Answer, Usage

from .request import TIERS, ChatQuestion


def completion(question: ChatQuestion, begun: Begun, answer: Answer) -> dict[str, object]:
    """The object of a response that is not streamed."""
    message: dict[str, object] = {"role": "assistant", "content": answer.text or None, "refusal": None}
    if answer.tool_calls:
        message["tool_calls"] = [call.as_openai() for call in answer.tool_calls]
    else:
        message["content"] = answer.text
    if answer.reasoning:
        message["reasoning_content"] = answer.reasoning
    logprobs = {"content": [token.model_dump() for token in answer.logprobs], "refusal": None}
    choice = {
        "index": 0,
        "message": message,
        "logprobs": logprobs if answer.logprobs else None,
        "finish_reason": answer.finish_reason or "stop",
    }
    return {
        "id": f"chatcmpl-{begun.request_id}",
        "object": "chat.completion",
        "created": begun.created_s,
        "model": begun.model or answer.model,
        "choices": [choice],
        "usage": usage_of(answer.usage),
        "system_fingerprint": None,
        **tier_of(question, begun),
        "x_tokenlane": answered_by(answer),
    }


def usage_of(usage: Usage) -> dict[str, object]:
    """The usage, as in OpenAI's API."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }


def tier_of(question: ChatQuestion, begun: Begun) -> dict[str, str]:
    """The field with the priority that the request had, if the client named one."""
    return {"service_tier": TIERS.get(begun.priority, "default")} if "priority" in question.options else {}


def answered_by(answer: Answer) -> dict[str, object]:
    """What answered, since `model` repeats the name that the client wrote."""
    return {"model": answer.model, "lane": answer.lane, "attempts": answer.usage.attempts}
