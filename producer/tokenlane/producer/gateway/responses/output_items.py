"""The items of an output: reasoning, messages and function calls, as the deltas of an answer make them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from .tools import parted

Kind: TypeAlias = Literal["reasoning", "message", "function_call"]
_PREFIXES: dict[Kind, str] = {"reasoning": "rs", "message": "msg", "function_call": "fc"}


@dataclass
class Item:
    """One item. Its id follows from the request's id and its place, so that each gateway gives it the same.

    Args:
        place: the item's index in the output.
        call: for a function call, the index that its deltas have.
        as_summary: whether reasoning is shown as a summary.
    """

    kind: Kind
    request_id: str
    place: int
    call: int = 0
    call_id: str = ""
    name: str = ""
    as_summary: bool = False
    _pieces: list[str] = field(default_factory=list, repr=False)

    @property
    def id(self) -> str:
        return f"{_PREFIXES[self.kind]}_{self.request_id}{self.place:02d}"

    @property
    def text(self) -> str:
        """The text of a message or of reasoning, or the arguments of a call."""
        if len(self._pieces) > 1:
            self._pieces[:] = ["".join(self._pieces)]
        return self._pieces[0] if self._pieces else ""

    def add(self, text: str) -> None:
        """Append a piece of the text."""
        self._pieces.append(text)

    def part(self) -> dict[str, object]:
        """The one part of a message, or of reasoning."""
        if self.kind == "message":
            return {"type": "output_text", "text": self.text, "annotations": [], "logprobs": []}
        return {"type": "summary_text" if self.as_summary else "reasoning_text", "text": self.text}

    def shown(self, status: str, *, has_part: bool = True) -> dict[str, object]:
        """The item in an output. `has_part`: False for an item that has just been added."""
        parts = [self.part()] if has_part else []
        match self.kind:
            case "reasoning":
                summary, content = (parts, []) if self.as_summary else ([], parts)
                return {"type": "reasoning", "id": self.id, "summary": summary, "content": content, "status": status}
            case "message":
                return {"type": "message", "id": self.id, "role": "assistant", "content": parts, "status": status}
        arguments = (self.text or "{}") if has_part else ""
        return {
            "type": "function_call",
            "id": self.id,
            "call_id": self.call_id or self.id,
            **parted(self.name),
            "arguments": arguments,
            "status": status,
        }
