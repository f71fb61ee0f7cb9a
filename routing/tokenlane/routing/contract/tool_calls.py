"""Assembles tool calls from the pieces that a server streams, and decides which call each piece belongs to.

Some servers number the calls of an answer, some give them ids, some do both or neither, and some number all calls 0.
So no single field identifies the call:

- A piece continues the call with the same number; without a number, the call with the same id; otherwise the last call.
- A piece begins a new call if it has a name and a different id; if it has a name but no id, and the name differs or
  the call's arguments are already complete; or if it has complete arguments and the call already has arguments.
- A piece that has a call's id and repeats all of its arguments is dropped.
- A name or id that arrives late is added to the call; a repeated or changed name or id is ignored.

Applying the rules twice gives the same pieces, so both the worker and the agent apply them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from io import StringIO

from pydantic import JsonValue
from pydantic_core import from_json

from .answers import ToolCall, ToolCallDelta


@dataclass(eq=False)
class _Call:
    index: int
    id: str = ""
    name: str = ""
    arguments: StringIO = field(default_factory=StringIO, repr=False)
    extra: dict[str, JsonValue] | None = field(default=None, repr=False)
    end: str = field(default="", repr=False)
    """The last character of the arguments that is not white space."""

    def write(self, arguments: str) -> None:
        self.arguments.write(arguments)
        if stripped := arguments.rstrip():
            self.end = stripped[-1]

    @property
    def is_complete(self) -> bool:
        """Whether the arguments so far are a complete JSON object."""
        return self.end == "}" and isinstance(_json(self.arguments.getvalue()), dict)

    def repeated_by(self, arguments: str) -> bool:
        """Whether these arguments repeat all of the call's arguments, as they are or as a JSON string."""
        if len(arguments) < self.arguments.tell() or not self.is_complete:
            return False
        known = self.arguments.getvalue()
        return arguments == known or (arguments.startswith('"') and _json(arguments) == known)


class ToolCalls:
    """The tool calls of one answer, assembled piece by piece."""

    def __init__(self) -> None:
        self._calls: list[_Call] = []
        self._by_number: dict[int, _Call] = {}
        self._by_id: dict[str, _Call] = {}

    def __len__(self) -> int:
        return len(self._calls)

    @property
    def has_nameless_call(self) -> bool:
        """Whether a call has no tool name, so that the agent cannot carry it out."""
        return not all(call.name for call in self._calls)

    def add(
        self,
        number: int | None,
        id: str | None,
        name: str | None,
        arguments: str,
        *,
        complete: bool = False,
        extra: dict[str, JsonValue] | None = None,
    ) -> ToolCallDelta | None:
        """Add the next piece to its call.

        Args:
            number: the server's number for the call; None if it sent none.
            complete: whether the server sent the arguments as a JSON object, so that the call has no more pieces.
            extra: data that the agent must send back with the call.

        Returns:
            The piece with the call's `index`, counted from 0; None if the piece repeats earlier pieces.
        """
        id, name = id or "", name or ""
        call = self._call_for(number, id, name)
        if call is not None and id and id == call.id and arguments and call.repeated_by(arguments):
            return None
        if call is None or _begins_another(call, id, name, arguments, complete=complete):
            call = _Call(len(self._calls))
            self._calls.append(call)
            if complete and not id:
                id = f"call_{call.index}"
        if number is not None:
            self._by_number[number] = call
        piece: dict[str, object] = {"index": call.index, "arguments": arguments}
        if id and not call.id:
            call.id = piece["id"] = id
            self._by_id[id] = call
        if name and not call.name:
            call.name = piece["name"] = name
        if extra:
            call.extra = piece["extra_content"] = extra
        call.write(arguments)
        return ToolCallDelta.model_validate(piece)

    def calls(self) -> tuple[ToolCall, ...]:
        """The assembled calls, after the last piece. A call without an id gets an id made from its index."""
        return tuple(
            ToolCall(
                id=call.id or f"call_{call.index}",
                name=call.name,
                arguments=call.arguments.getvalue(),
                extra_content=call.extra,
            )
            for call in self._calls
        )

    def _call_for(self, number: int | None, id: str, name: str) -> _Call | None:
        known = self._by_id.get(id)
        if number is None:
            return known or (self._calls[-1] if self._calls else None)
        call = self._by_number.get(number)
        if known is not None and not name and (call is None or call.id not in ("", id)):
            return known
        return call


def _begins_another(call: _Call, id: str, name: str, arguments: str, *, complete: bool) -> bool:
    other_id = bool(id and call.id and id != call.id)
    other_name = bool(name and call.name and name != call.name)
    if complete:
        return other_id or other_name or bool(call.end and (name or not id))
    if not name:
        return False
    if other_id or not call.name:
        return other_id
    if other_name and not (id and call.id):
        return True
    return bool(arguments.strip()) and call.is_complete


def _json(text: str) -> object:
    try:
        value: object = from_json(text)
    except ValueError:
        return None
    return value
