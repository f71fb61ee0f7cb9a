"""Detects prompts that Ollama would truncate, or has truncated, to fit the model's context.

With `truncate: false`, Ollama 0.13 and newer refuse a prompt that does not fit. Older versions ignore that option and
truncate silently. For these, the prompt's estimated size is compared with the model's context before the request, and
with the number of tokens that Ollama read after the request.
"""

from __future__ import annotations

import re
from typing import Any

from tokenlane.routing.contract.answers import Usage
from tokenlane.routing.contract.errors import ContextTooLong
from tokenlane.routing.contract.prompt_size import estimated_tokens, text_bytes
from tokenlane.routing.contract.requests import ChatRequest

from .names import same_model_name

LEAST_CONTEXT = 512
"""Nearly every model is loaded with at least this many tokens of context."""
_REFUSES_SINCE = (0, 13, 0)
_DEFAULTS = (2048, 4096)
"""The default contexts, in tokens, of versions that do not report the context."""
_COUNTS_ALL_SINCE = (0, 4, 0)
"""The first version that counts all tokens of a prompt. Older versions count only those that are not in the cache."""
_MOST_BYTES_PER_TOKEN = 8
"""The most bytes of a token, except in long runs of one character. English text has 4 to 5."""
_VERSION = re.compile(r"(\d{1,4})\.(\d{1,4})\.(\d{1,4})")
_NUM_CTX = re.compile(r"^num_ctx\s+(\d{1,9})\s*$", re.MULTILINE)
_ADVICE = (
    "shorten the messages, load the model with a larger num_ctx, or run Ollama 0.13 or newer, which counts exactly"
)


def parse_version(text: str | None) -> tuple[int, ...] | None:
    """A version as numbers; None if the text is not a version, or comes from a development build (0.0.0)."""
    match = _VERSION.match(text or "")
    numbers = tuple(map(int, match.groups())) if match else (0, 0, 0)
    return numbers if any(numbers) else None


def refuses_long_prompts(version: tuple[int, ...] | None) -> bool:
    """Whether a server of this version counts the prompt exactly and refuses a prompt that does not fit."""
    return version is not None and version >= _REFUSES_SINCE


def context_in_request(request: ChatRequest) -> int | None:
    """The context that the request sets as `num_ctx` in `extra`; None if it sets none."""
    options = (request.extra or {}).get("options")
    size = options.get("num_ctx") if isinstance(options, dict) else None
    return size if isinstance(size, int) and size > 0 else None


def loaded_context(document: Any, model: str) -> int | None:
    """The context of the loaded model, from `/api/ps`; None if it is not loaded or the server does not report it."""
    for entry in document["models"] or ():
        if same_model_name(entry["name"], model):
            size = entry.get("context_length")
            return size if isinstance(size, int) and size > 0 else None
    return None


def context_in_show_answer(document: Any) -> tuple[int | None, int | None]:
    """The context that the model will be loaded with, and the longest that it supports, from `/api/show`."""
    wanted = _NUM_CTX.search(document.get("parameters") or "")
    made = [size for name, size in (document.get("model_info") or {}).items() if name.endswith(".context_length")]
    return int(wanted[1]) if wanted else None, made[0] if made and isinstance(made[0], int) else None


def refuse_if_truncated(
    request: ChatRequest, usage: Usage | None, context: int | None, version: tuple[int, ...] | None
) -> None:
    """Refuse an answer if Ollama read only a part of its prompt.

    Args:
        context: the context of the loaded model, if known.
        version: the server's version, if known.

    Raises:
        ContextTooLong: the tokens that Ollama read fill the context, or are fewer than the prompt must have.
    """
    read = usage.prompt_tokens if usage else 0
    counts_all = version is not None and version >= _COUNTS_ALL_SINCE
    full = (context is not None and read >= context) or (read in _DEFAULTS and read < estimated_tokens(request))
    if full or (counts_all and 0 < read * _MOST_BYTES_PER_TOKEN < text_bytes(request)):
        raise ContextTooLong(
            f"Ollama read {read} tokens of a prompt of about {max(read, estimated_tokens(request))} and left out the "
            f"rest, so the answer would ignore a part of the prompt: {_ADVICE}."
        )
