"""Hooks to start from: docs/hooks.md explains them."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator

from tokenlane.producer import BadRequest, ChatRequest, Message, TokenDelta

KEY = re.compile(r"sk-[A-Za-z0-9]{20}")
BEGUN_KEY = re.compile(r"s(k(-[A-Za-z0-9]{0,19})?)?$")
PHRASE = "Best regards"


async def mask_keys(deltas: AsyncIterator[TokenDelta]) -> AsyncIterator[TokenDelta]:
    """Mask API keys in the text and the reasoning, also those that arrive in several pieces."""
    text = reasoning = ""
    async for delta in deltas:
        delta.text, text = masked(text + delta.text)
        delta.reasoning, reasoning = masked(reasoning + delta.reasoning)
        delta.logprobs = ()  # they repeat the text
        yield delta
    yield TokenDelta(text=KEY.sub("***", text), reasoning=KEY.sub("***", reasoning))


def masked(text: str) -> tuple[str, str]:
    """What to deliver, and what to hold back until more arrives, since it may be the beginning of a key."""
    return ("", text) if BEGUN_KEY.search(text) else (KEY.sub("***", text), "")


async def stop_at_phrase(deltas: AsyncIterator[TokenDelta]) -> AsyncIterator[TokenDelta]:
    """End the answer before a phrase."""
    held = ""
    async for delta in deltas:
        held += delta.text
        before, phrase, _ = held.partition(PHRASE)
        if phrase:
            delta.text = before
            yield delta
            return
        if any(held.endswith(PHRASE[:length]) for length in range(1, len(PHRASE))):
            delta.text = ""
        else:
            delta.text, held = held, ""
        yield delta
    yield TokenDelta(text=held)


async def count_words(deltas: AsyncIterator[TokenDelta]) -> AsyncIterator[TokenDelta]:
    """Append the number of words."""
    text = ""
    async for delta in deltas:
        text += delta.text
        yield delta
    yield TokenDelta(text=f"\n({len(text.split())} words)")


def without_reasoning(delta: TokenDelta) -> TokenDelta:
    """Leave out the model's reasoning."""
    delta.reasoning = ""
    return delta


def add_rules(request: ChatRequest) -> ChatRequest:
    """Put the rules of the house before every conversation, and refuse very long questions."""
    question = request.messages[-1].content
    if isinstance(question, str) and len(question) > 100_000:
        raise BadRequest("Ask with at most 100,000 characters.")
    rules = Message(role="system", content="Answer in English.")
    return request.model_copy(update={"messages": [rules, *request.messages]})
