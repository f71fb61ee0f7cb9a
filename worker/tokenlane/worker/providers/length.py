"""Refuses a prompt that is longer than its lane takes, before the back end sees it."""

from __future__ import annotations

from tokenlane.config.values import LaneSettings
from tokenlane.routing.errors import BadRequest, LlmError
from tokenlane.routing.messages import ChatRequest

from .protocol import CountsTokens, LlmProvider
from .too_long import context_too_long

__all__ = ["check_length", "estimated_tokens"]

_BYTES_PER_TOKEN = 4
"""As agents estimate."""
_TEMPLATE_TOKENS = 32
"""What a chat template may add to a message, its role and separators."""


async def check_length(provider: LlmProvider, lane: LaneSettings, request: ChatRequest, model: str) -> None:
    """Compare the prompt with the lane's `max_input_tokens`, if it has one.

    The server counts where it can, unless the prompt is so short that it fits however it is cut into tokens; elsewhere
    the size tells, four bytes a token.

    Raises:
        ContextTooLong: it is longer; the error names the limit and the tokens.
    """
    limit = lane.max_input_tokens
    if limit is None:
        return
    size = _size(request)
    if size + _TEMPLATE_TOKENS * len(request.messages) <= limit:
        return
    tokens = await _counted(provider, request, model)
    about = tokens is None
    tokens = estimated_tokens(request) if tokens is None else tokens
    if tokens > limit:
        raise context_too_long(limit, tokens, about=about, of="the lane's max_input_tokens")


def estimated_tokens(request: ChatRequest) -> int:
    """About how many tokens a prompt has, by its size."""
    return _size(request) // _BYTES_PER_TOKEN


def _size(request: ChatRequest) -> int:
    return len(request.model_dump_json(include={"messages", "tools"}, exclude_unset=True).encode())


async def _counted(provider: LlmProvider, request: ChatRequest, model: str) -> int | None:
    """None where the server does not count."""
    if not isinstance(provider, CountsTokens):
        return None
    try:
        return await provider.count_tokens(request, model)
    except BadRequest:
        raise
    except LlmError:
        return None
