"""Refuses a prompt that is longer than its lane accepts, before it goes to the model server."""

from __future__ import annotations

from tokenlane.config.settings.values import LaneSettings
from tokenlane.routing.contract.errors import BadRequest, LlmError
from tokenlane.routing.contract.prompt_size import MEDIA_TOKENS, count_media, estimated_tokens, most_tokens
from tokenlane.routing.contract.requests import ChatRequest, Message
from tokenlane.worker.providers.errors.context_errors import context_too_long
from tokenlane.worker.providers.protocol import CountsTokens, LlmProvider
from tokenlane.worker.providers.requests.turns import map_turns


async def check_length(provider: LlmProvider, lane: LaneSettings, request: ChatRequest, model: str) -> None:
    """Compare the prompt's length with the lane's `max_input_tokens`, if it is set.

    If the model server can count tokens, it is asked, unless the prompt is so short that it fits in any case. Otherwise
    the count is estimated from the prompt's size, as agents do.

    Raises:
        ContextTooLong: the prompt is longer than the limit. The error names both numbers.
    """
    limit = lane.max_input_tokens
    if limit is None:
        return
    if most_tokens(request) <= limit:
        return
    tokens = await _counted(provider, request, model)
    about = tokens is None
    tokens = estimated_tokens(request) if tokens is None else tokens
    if tokens > limit:
        raise context_too_long(limit, tokens, known="about" if about else "", limit_name="the lane's max_input_tokens")


async def _counted(provider: LlmProvider, request: ChatRequest, model: str) -> int | None:
    """The number of tokens that the model server counts; None if it cannot count. Tokenizers count only text, so the
    tokens of images are estimated."""
    if not isinstance(provider, CountsTokens):
        return None
    try:
        return await provider.count_tokens(map_turns(request, _text_alone), model) + MEDIA_TOKENS * count_media(request)
    except BadRequest:
        raise
    except LlmError:
        return None


def _text_alone(message: Message) -> Message:
    if not isinstance(message.content, list):
        return message
    texts = [part for part in message.content if isinstance(part.get("text"), str)]
    return message.model_copy(update={"content": texts or ""})
