"""Reading how likely the tokens of an answer were, in each way that servers say so."""

from __future__ import annotations

from collections.abc import Iterator
from math import isfinite
from typing import Any

from tokenlane.routing.contract.answers import TokenLogprob, TopLogprob

_NEVER = -9999.0
"""OpenAI's number for a token that could not be; some servers send an infinite one, which no JSON carries on."""


def logprobs_of(said: Any) -> tuple[TokenLogprob, ...]:
    """The tokens of one piece: OpenAI's `logprobs` of a choice, of its chat or its completions, or Ollama's list.

    Raises:
        ValueError, TypeError, KeyError, AttributeError: it is none of them.
    """
    if not said:
        return ()
    if isinstance(said, list):
        return tuple(map(_token, said))
    if "tokens" in said:
        return tuple(_completed(said))
    return tuple(_token(entry) for name in ("content", "refusal") for entry in said.get(name) or ())


def _token(entry: dict[str, Any]) -> TokenLogprob:
    top = entry.get("top_logprobs")
    token = TokenLogprob(**_said(entry))
    return token.model_copy(update={"top_logprobs": tuple(TopLogprob(**_said(each)) for each in top)}) if top else token


def _said(entry: dict[str, Any]) -> dict[str, Any]:
    said = {"token": entry["token"], "logprob": _finite(entry["logprob"])}
    return said if entry.get("bytes") is None else {**said, "bytes": entry["bytes"]}


def _completed(said: dict[str, Any]) -> Iterator[TokenLogprob]:
    tokens, values = said["tokens"], said["token_logprobs"]
    tops = said.get("top_logprobs") or [None] * len(tokens)
    for token, value, top in zip(tokens, values, tops, strict=True):
        found = TokenLogprob(token=token, logprob=_finite(value))
        others = tuple(TopLogprob(token=other, logprob=_finite(much)) for other, much in (top or {}).items())
        yield found.model_copy(update={"top_logprobs": others}) if others else found


def _finite(value: Any) -> float:
    return float(value) if value is not None and isfinite(value) else _NEVER
