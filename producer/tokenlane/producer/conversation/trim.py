"""Decides which of a conversation's messages are sent: the system's, and as many of the newest turns as fit.

A turn is a question with everything up to the next question: its answer, tool calls and their results. Turns are left
out whole, the oldest first, and several at once: down to three quarters of the limit. So most questions are sent after
exactly the messages before, which the model server may still have in its prefix cache.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import JsonValue

from tokenlane.routing.contract.answers import Usage
from tokenlane.routing.contract.prompt_size import estimated_tokens
from tokenlane.routing.contract.requests import ChatRequest, Message

from .history import system_size

KEPT_SHARE = 0.75
"""The share of the limit to which a prompt above the limit is shortened."""
_LEAST_RATIO, _MOST_RATIO = 0.5, 4.0
"""Bounds of what servers may report: some count only the tokens of the prompt that they had not cached."""


class TokenEstimate:
    """Estimates the tokens of prompts. The ratio of the server's count to ours in the last prompt corrects the next."""

    def __init__(self) -> None:
        self._ratio = 1.0

    def of(self, messages: Sequence[Message], tools: Sequence[dict[str, JsonValue]] | None = None) -> float:
        """Estimate the tokens of a prompt with these messages and tools."""
        return self._ratio * _estimate(messages, tools)

    def learn(
        self, usage: Usage, messages: Sequence[Message], tools: Sequence[dict[str, JsonValue]] | None = None
    ) -> None:
        """Take in the tokens that a server counted in a prompt with these messages and tools."""
        if usage.prompt_tokens:
            ratio = usage.prompt_tokens / _estimate(messages, tools)
            self._ratio = min(max(ratio, _LEAST_RATIO), _MOST_RATIO)


def _estimate(messages: Sequence[Message], tools: Sequence[dict[str, JsonValue]] | None) -> int:
    # They are valid already, and validating them would copy them.
    request = ChatRequest.model_construct(role="", messages=list(messages), tools=[*tools] if tools else None)
    return max(1, estimated_tokens(request))


def sent(messages: Sequence[Message], left_out: int) -> list[Message]:
    """The messages that are sent if so many of the oldest, the system's not counted, are left out."""
    first = system_size(messages)
    return [*messages[:first], *messages[first + left_out :]]


def shorten(
    messages: Sequence[Message],
    left_out: int,
    target: float,
    estimate: TokenEstimate,
    tools: Sequence[dict[str, JsonValue]] | None = None,
) -> int:
    """Leave out the oldest turns until the estimate for the rest is at most `target`, or only the newest turn is left.

    Args:
        messages: the whole conversation, with the question to send.
        left_out: how many messages are left out already.
        target: tokens of messages and tools.

    Returns:
        The number of messages to leave out; `left_out` if only the newest turn was sent already.
    """
    tokens = estimate.of(sent(messages, left_out), tools)
    system = system_size(messages)
    first = system + left_out
    for place in range(first, len(messages)):
        if messages[place].role == "user" and place > first:
            left_out = place - system
            if tokens <= target:
                break
        tokens -= estimate.of([messages[place]])
    return left_out
