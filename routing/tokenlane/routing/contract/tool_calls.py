"""Which tool call a piece of one belongs to: the rules, for who reads a back end and for who puts an answer together.

Servers number the calls of an answer, give them ids, do both or neither, and some number all of them 0. So no field
alone says where a piece belongs:

- a piece with the number of a call, or without a number the id of one, else any piece, continues that call or the last,
- unless it begins another: by a name with another id; by a name without an id if it is another name, or if the
  arguments so far are whole; or by arguments that came whole where there are some already;
- a piece that says again all that its call has said, by its id, is dropped;
- a name or an id that comes late is the call's, one that comes again or changes on the way is not.

Applied to what they have put in order they change nothing, so a worker and an agent may both apply them.
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
    """The last character that is not blank."""

    def write(self, arguments: str) -> None:
        self.arguments.write(arguments)
        if stripped := arguments.rstrip():
            self.end = stripped[-1]

    @property
    def whole(self) -> bool:
        """The arguments so far are a JSON object, after which nothing can come."""
        return self.end == "}" and isinstance(_json(self.arguments.getvalue()), dict)

    def repeated_by(self, arguments: str) -> bool:
        """The arguments say all of it again, some servers' once more as a JSON string."""
        if len(arguments) < self.arguments.tell() or not self.whole:
            return False
        said = self.arguments.getvalue()
        return arguments == said or (arguments.startswith('"') and _json(arguments) == said)


class ToolCalls:
    """The tool calls of one answer as they grow."""

    def __init__(self) -> None:
        self._calls: list[_Call] = []
        self._by_number: dict[int, _Call] = {}
        self._by_id: dict[str, _Call] = {}

    def __len__(self) -> int:
        return len(self._calls)

    @property
    def nameless(self) -> bool:
        """Whether a call has no name, which no agent can carry out."""
        return not all(call.name for call in self._calls)

    def add(
        self,
        number: int | None,
        id: str | None,
        name: str | None,
        arguments: str,
        *,
        whole: bool = False,
        extra: dict[str, JsonValue] | None = None,
    ) -> ToolCallDelta | None:
        """Put the next piece in its place.

        Args:
            number: the call's, as the server counts.
            whole: the server sent the arguments as an object, so they have no other pieces.
            extra: what the server wants to see again with the call.

        Returns:
            The piece as its place is told by `index` alone, which counts the calls from 0; None if it repeats another.
        """
        id, name = id or "", name or ""
        call = self._nearest(number, id, name)
        if call is not None and id and id == call.id and arguments and call.repeated_by(arguments):
            return None
        if call is None or _begins_another(call, id, name, arguments, whole=whole):
            call = _Call(len(self._calls))
            self._calls.append(call)
            if whole and not id:
                id = f"call_{call.index}"
        if number is not None:
            self._by_number[number] = call
        said: dict[str, object] = {"index": call.index, "arguments": arguments}
        if id and not call.id:
            call.id = said["id"] = id
            self._by_id[id] = call
        if name and not call.name:
            call.name = said["name"] = name
        if extra:
            call.extra = said["extra_content"] = extra
        call.write(arguments)
        return ToolCallDelta.model_validate(said)

    def calls(self) -> tuple[ToolCall, ...]:
        """All of them, once nothing more comes; one that the server gave no id is named by its number."""
        return tuple(
            ToolCall(
                id=call.id or f"call_{call.index}",
                name=call.name,
                arguments=call.arguments.getvalue(),
                extra_content=call.extra,
            )
            for call in self._calls
        )

    def _nearest(self, number: int | None, id: str, name: str) -> _Call | None:
        known = self._by_id.get(id)
        if number is None:
            return known or (self._calls[-1] if self._calls else None)
        call = self._by_number.get(number)
        if known is not None and not name and (call is None or call.id not in ("", id)):
            return known
        return call


def _begins_another(call: _Call, id: str, name: str, arguments: str, *, whole: bool) -> bool:
    other_id = bool(id and call.id and id != call.id)
    other_name = bool(name and call.name and name != call.name)
    if whole:
        return other_id or other_name or bool(call.end and (name or not id))
    if not name:
        return False
    if other_id or not call.name:
        return other_id
    if other_name and not (id and call.id):
        return True
    return bool(arguments.strip()) and call.whole


def _json(text: str) -> object:
    try:
        value: object = from_json(text)
    except ValueError:
        return None
    return value
