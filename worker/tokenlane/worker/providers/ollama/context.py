"""How much of a prompt Ollama reads. What does not fit it may leave out, without a word, and answer the rest.

From 0.13 on it refuses such a prompt if it is told to (`truncate: false`). Older versions do not know the word: there a
prompt is compared, by its size, with what the server says of the model, and afterwards with the count of what was read.
"""

from __future__ import annotations

import re
from typing import Any

from tokenlane.routing.contract.answers import Usage
from tokenlane.routing.contract.errors import ContextTooLong
from tokenlane.routing.contract.prompt_size import estimated_tokens, text_bytes
from tokenlane.routing.contract.requests import ChatRequest

from .names import same_tag

LEAST_CONTEXT = 512
"""Hardly anybody loads a model with less."""
_REFUSES = (0, 13, 0)
_DEFAULTS = (2048, 4096)
"""What older versions load a model with if nobody says anything; some tell it nowhere."""
_COUNTS_ALL = (0, 4, 0)
"""Versions before count only what was not in their cache."""
_MOST_BYTES_PER_TOKEN = 8
"""Of any text but long runs of one character; English has 4 to 5."""
_VERSION = re.compile(r"(\d{1,4})\.(\d{1,4})\.(\d{1,4})")
_NUM_CTX = re.compile(r"^num_ctx\s+(\d{1,9})\s*$", re.MULTILINE)
_ADVICE = (
    "shorten the messages, load the model with a larger num_ctx, or run Ollama 0.13 or newer, which counts exactly"
)


def as_version(text: str | None) -> tuple[int, ...] | None:
    """A version as numbers; None if it is none, or that of a build of its own."""
    match = _VERSION.match(text or "")
    numbers = tuple(map(int, match.groups())) if match else (0, 0, 0)
    return numbers if any(numbers) else None


def refuses(version: tuple[int, ...] | None) -> bool:
    """Whether a server of this version refuses by itself what does not fit, to the token."""
    return version is not None and version >= _REFUSES


def given_context(request: ChatRequest) -> int | None:
    """What the request itself asks to load the model with."""
    options = (request.extra or {}).get("options")
    size = options.get("num_ctx") if isinstance(options, dict) else None
    return size if isinstance(size, int) and size > 0 else None


def loaded_context(page: Any, model: str) -> int | None:
    """What the model was loaded with, by `/api/ps`; None if it is not loaded, or the server does not say."""
    for entry in page["models"] or ():
        if same_tag(entry["name"], model):
            size = entry.get("context_length")
            return size if isinstance(size, int) and size > 0 else None
    return None


def shown_context(page: Any) -> tuple[int | None, int | None]:
    """What the model is to be loaded with and what it was made for, by `/api/show`."""
    wanted = _NUM_CTX.search(page.get("parameters") or "")
    made = [size for name, size in (page.get("model_info") or {}).items() if name.endswith(".context_length")]
    return int(wanted[1]) if wanted else None, made[0] if made and isinstance(made[0], int) else None


def refuse_if_cut(
    request: ChatRequest, usage: Usage | None, context: int | None, version: tuple[int, ...] | None
) -> None:
    """Say of an answer that it is one to a part of the prompt.

    Args:
        context: what the model was loaded with, as far as that is known.
        version: the server's; of none that refuses by itself.

    Raises:
        ContextTooLong: what was read fills the context, or is less than the prompt can be.
    """
    read = usage.prompt_tokens if usage else 0
    counts_all = version is not None and version >= _COUNTS_ALL
    full = (context is not None and read >= context) or (read in _DEFAULTS and read < estimated_tokens(request))
    if full or (counts_all and 0 < read * _MOST_BYTES_PER_TOKEN < text_bytes(request)):
        raise ContextTooLong(
            f"Ollama has read {read} tokens of about {max(read, estimated_tokens(request))} and left out the rest, so "
            f"the answer is not one to the whole prompt: {_ADVICE}."
        )
