"""Reads the log probabilities of tokens in the three formats that model servers use."""

from __future__ import annotations

from collections.abc import Iterator
from math import isfinite
from typing import Any

from tokenlane.routing.contract.answers import TokenLogprob, TopLogprob

_IMPOSSIBLE = -9999.0
"""OpenAI's value for an impossible token. It replaces null and minus infinity, which some servers send."""


def logprobs_of(logprobs: Any) -> tuple[TokenLogprob, ...]:
    """The tokens of one piece of an answer, from the `logprobs` of OpenAI's chat or completions API, or Ollama's list.

    Raises:
        ValueError, TypeError, KeyError, AttributeError: the format is unknown.
    """
    if not logprobs:
        return ()
    if isinstance(logprobs, list):
        return tuple(map(_token, logprobs))
    if "tokens" in logprobs:
        return tuple(_completed(logprobs))
    return tuple(_token(entry) for name in ("content", "refusal") for entry in logprobs.get(name) or ())


def _token(entry: dict[str, Any]) -> TokenLogprob:
    top = entry.get("top_logprobs")
    token = TokenLogprob(**_fields(entry))
    others = tuple(TopLogprob(**_fields(each)) for each in top or ())
    return token.model_copy(update={"top_logprobs": others}) if others else token


def _fields(entry: dict[str, Any]) -> dict[str, Any]:
    fields = {"token": entry["token"], "logprob": _finite(entry["logprob"])}
    return fields if entry.get("bytes") is None else {**fields, "bytes": entry["bytes"]}


def _completed(logprobs: dict[str, Any]) -> Iterator[TokenLogprob]:
    tokens, values = logprobs["tokens"], logprobs["token_logprobs"]
    tops = logprobs.get("top_logprobs") or [None] * len(tokens)
    for token, value, top in zip(tokens, values, tops, strict=True):
        entry = TokenLogprob(token=token, logprob=_finite(value))
        others = tuple(TopLogprob(token=other, logprob=_finite(number)) for other, number in (top or {}).items())
        yield entry.model_copy(update={"top_logprobs": others}) if others else entry


def _finite(value: Any) -> float:
    return float(value) if value is not None and isfinite(value) else _IMPOSSIBLE
