"""Reads text and reasoning from the various fields in which servers send them."""

from __future__ import annotations

from typing import Any

from tokenlane.worker.providers.errors.http_errors import unreadable

_NOT_SUPPORTED = ("audio", "images")
_SOURCE_PARTS = {"reference", "tool_reference", "citation"}
"""Types of parts that only refer to sources. They are ignored."""
_TEXT_PARTS = {"text", "output_text"}


def text_of(piece: dict[str, Any]) -> tuple[str, str]:
    """The text and the reasoning in `content`, which may be a list of parts. The text includes OpenAI's `refusal`."""
    content = piece.get("content")
    if isinstance(content, str) or content is None:
        text, thought = content or "", ""
    else:
        text, thought = _parts([content] if isinstance(content, dict) else content)
    return text + (piece.get("refusal") or ""), thought


def reasoning_of(piece: dict[str, Any]) -> str:
    """The reasoning in a separate field. Servers that fill several such fields put the same text into each."""
    thought: str | None = piece.get("reasoning") or piece.get("reasoning_content") or piece.get("thinking")
    if thought:
        return thought
    details = piece.get("reasoning_details")
    return "".join(part.get("text") or part.get("summary") or "" for part in details) if details else ""


def refuse_unsupported(piece: dict[str, Any]) -> None:
    """Refuse content that a delta cannot carry.

    Raises:
        UnreadableAnswer: the piece holds audio or images.
    """
    for name in _NOT_SUPPORTED:
        if piece.get(name):
            raise unreadable(f"it holds `{name}`, which tokenlane does not support")


def _parts(parts: list[dict[str, Any]]) -> tuple[str, str]:
    text = thought = ""
    for part in parts:
        kind = part.get("type")
        if kind in _TEXT_PARTS:
            text += part["text"]
        elif kind == "refusal":
            text += part["refusal"]
        elif kind in ("thinking", "reasoning"):
            thought += _thought(part.get("thinking") or part.get("reasoning") or part.get("text") or "")
        elif kind not in _SOURCE_PARTS:
            shown = kind if isinstance(kind, str) and len(kind) <= 32 and kind.isidentifier() else "another"
            raise unreadable(f"its `content` has a part of type `{shown}`, which tokenlane does not support")
    return text, thought


def _thought(thought: str | list[dict[str, Any]]) -> str:
    return thought if isinstance(thought, str) else "".join(_parts(thought))
