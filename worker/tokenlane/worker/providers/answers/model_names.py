"""Whether the model that an answer names is the one that was asked for."""

from __future__ import annotations

import re

_MORE = re.compile(
    r"@.*"  # a revision
    r"|-\d{4}.*"  # a dated snapshot
    r"|:latest"  # Ollama's word for no tag
)
_VARIANT = re.compile(r":(?:exacto|extended|floor|free|latest|nitro|online|thinking)$")
"""Ways to run one model: OpenRouter's, and Ollama's word for no tag."""


def same_model(said: str, asked: str) -> bool:
    """Servers may say more than they were asked: a revision, a dated snapshot, whose model it is; or less: not whose,
    and in what way it was run."""
    if said == asked:
        return True
    said, asked = said.casefold(), _VARIANT.sub("", asked.casefold())
    whose, _, name = said.rpartition("/")
    if whose and "/" not in asked:
        said = name
    elif not whose:
        asked = asked.rpartition("/")[2]
    if said.startswith(asked):
        return said == asked or _MORE.fullmatch(said, len(asked)) is not None
    newest = asked.removesuffix("-latest")
    return newest != asked and said.startswith(newest) and re.fullmatch(r"-\d{4}.*", said[len(newest) :]) is not None
