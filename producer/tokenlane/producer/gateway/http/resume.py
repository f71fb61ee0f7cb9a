"""Resumes an event stream: where a client's last event stands in the answer, and what it has not received.

Places are counted in characters of the answer (reasoning, text and arguments of tool calls, as they come), since
another attempt or another gateway may cut the same answer into other deltas.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tokenlane.producer.gateway.failures import Refused
from tokenlane.routing.contract.answers import TokenDelta, ToolCallDelta

_EVENT_ID = re.compile(r"([0-9a-f]{32})\.([0-9]{1,9})")
_REQUEST_ID = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class Resumed:
    """A request that a client joins again. `characters`: how much of the answer it has."""

    request_id: str
    characters: int = 0


def resumed(headers: Mapping[str, str]) -> Resumed | None:
    """What the headers `Last-Event-ID` or `x-tokenlane-request` name; None for a new request.

    Raises:
        Refused: a header has another form.
    """
    last, whole = headers.get("last-event-id", ""), headers.get("x-tokenlane-request", "")
    if match := _EVENT_ID.fullmatch(last):
        return Resumed(match[1], int(match[2]))
    if _REQUEST_ID.fullmatch(whole) and not last:
        return Resumed(whole)
    if last or whole:
        name = "Last-Event-ID" if last else "x-tokenlane-request"
        raise Refused(400, "bad_request", f"The header {name} is not what this gateway sent: send it unchanged.")
    return None


def event_id(request_id: str, characters: int) -> str:
    """The id of an event, for `Last-Event-ID`. `characters`: the characters of the answer up to this event's end."""
    return f"{request_id}.{characters}"


def size_of(deltas: Sequence[TokenDelta]) -> int:
    """The characters of these deltas. The name of a tool call counts as one, so that its place is known."""
    return sum(
        len(delta.text) + len(delta.reasoning) + sum(_size_of_call(call) for call in delta.tool_calls)
        for delta in deltas
    )


def split(deltas: Sequence[TokenDelta], characters: int) -> tuple[list[TokenDelta], list[TokenDelta]]:
    """Divide deltas after so many characters. A delta in which the border lies is divided too."""
    before: list[TokenDelta] = []
    for place, delta in enumerate(deltas):
        if characters == 0:
            return before, list(deltas[place:])
        size = size_of([delta])
        if size > characters:
            head, tail = _divided(delta, characters)
            return [*before, head], [tail, *deltas[place + 1 :]]
        before.append(delta)
        characters -= size
    return before, []


def _divided(delta: TokenDelta, characters: int) -> tuple[TokenDelta, TokenDelta]:
    """The head of a delta with so many characters, and the rest. What ends an answer stays with the rest."""
    reasoning = min(characters, len(delta.reasoning))
    text = min(characters - reasoning, len(delta.text))
    left = characters - reasoning - text
    heads: list[ToolCallDelta] = []
    tails: list[ToolCallDelta] = []
    for call in delta.tool_calls:
        if left >= _size_of_call(call):
            heads.append(call)
        elif left == 0:
            tails.append(call)
        else:
            cut = left - bool(call.name)
            heads.append(call.model_copy(update={"arguments": call.arguments[:cut]}))
            tails.append(ToolCallDelta(index=call.index, arguments=call.arguments[cut:]))
        left = max(0, left - _size_of_call(call))
    head = {"reasoning": delta.reasoning[:reasoning], "text": delta.text[:text], "tool_calls": tuple(heads)}
    tail = {"reasoning": delta.reasoning[reasoning:], "text": delta.text[text:], "tool_calls": tuple(tails)}
    ends = {"finish_reason": None, "usage": None, "logprobs": ()}
    return delta.model_copy(update=head | ends), delta.model_copy(update=tail)


def _size_of_call(call: ToolCallDelta) -> int:
    return bool(call.name) + len(call.arguments)
