"""What holds for a chat whichever provider answers it: a begun answer is continued, a call that is required is made."""

from __future__ import annotations

from tokenlane.routing.contract.errors import NoToolCall
from tokenlane.routing.contract.messages import ChatRequest, FinishReason


def begun(request: ChatRequest, model: str) -> tuple[ChatRequest, str, str | None]:
    """What a provider is asked: the request, the model, and the text to continue from, if the agent has begun one."""
    last = request.messages[-1]
    if not request.continue_final or not isinstance(last.content, str):
        return request, model, None
    return request.model_copy(update={"messages": request.messages[:-1], "continue_final": None}), model, last.content


def no_call(finish_reason: FinishReason) -> NoToolCall:
    """The error for an answer that had to call a tool, and does not: servers may take `tool_choice` and ignore it."""
    if finish_reason == "length":
        return NoToolCall(
            "The answer was cut off before it called a tool, as `tool_choice` requires: raise max_tokens."
        )
    return NoToolCall(
        "The answer calls no tool, as `tool_choice` requires: the back end does not enforce it, or its model knows no "
        "tools. Route this role to one that does, or ask with tool_choice auto and look at `tool_calls`."
    )
