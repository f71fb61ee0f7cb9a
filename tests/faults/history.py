"""What agents saw, as a list of events; and what must hold of any such list, whatever went wrong meanwhile."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

__all__ = ["Accepted", "CancelAsked", "Ended", "Event", "Got", "Sent", "check_history"]

_NOT_ACCEPTED = ("queue_full", "pool_unavailable")


@dataclass(frozen=True)
class Sent:
    """An agent asked; `answer` is the only text that may come back. `restarts`: the answer may begin anew."""

    request: str
    answer: str
    restarts: bool = False


@dataclass(frozen=True)
class Accepted:
    """The pool has taken it."""

    request: str


@dataclass(frozen=True)
class Got:
    """A delta reached the agent. `restarted`: it begins the answer anew."""

    request: str
    attempt: int
    position: int
    text: str
    restarted: bool = False


@dataclass(frozen=True)
class CancelAsked:
    """The agent cancelled it."""

    request: str


@dataclass(frozen=True)
class Ended:
    """It ended for the agent: `completed`, an error's code, or `abandoned` if the agent was killed. `partial`: of an
    interrupted one."""

    request: str
    how: str
    partial: str | None = None


Event: TypeAlias = Sent | Accepted | Got | CancelAsked | Ended


def check_history(history: Sequence[Event]) -> list[str]:
    """What is wrong with a history; nothing, if every promise to agents was kept.

    Every request ends once, after which nothing comes; its deltas are numbered from 0 without a gap, and never of an
    older attempt than those before; a completed one is the whole answer, any other a part of it from the start. If an
    answer begins anew, that holds for the deltas before and after.
    """
    events: dict[str, list[Event]] = defaultdict(list)
    for event in history:
        events[event.request].append(event)
    return [f"{request}: {wrong}" for request, own in events.items() for wrong in _check_request(own)]


def _check_request(events: Sequence[Event]) -> Iterable[str]:
    first, last = events[0], events[-1]
    if not isinstance(first, Sent):
        yield "not sent"
        return
    if sum(isinstance(event, Sent) for event in events) != 1:
        yield "sent again"
    ends = [event for event in events if isinstance(event, Ended)]
    if len(ends) != 1:
        yield f"ended {len(ends)} times"
    if not isinstance(last, Ended):
        yield "the end is not its last event"
        return
    got = [event for event in events if isinstance(event, Got)]
    yield from _check_deltas(first, got)
    yield from _check_end(first, got, last, events)


def _check_deltas(sent: Sent, got: Sequence[Got]) -> Iterable[str]:
    attempts = [delta.attempt for delta in got]
    if attempts != sorted(attempts):
        yield f"deltas of an outdated attempt: {attempts}"
    answers = _answers(got)
    if len(answers) > 1 and not sent.restarts:
        yield "begun anew, which its agent does not allow"
    for answer in answers:
        positions = [delta.position for delta in answer]
        if positions != list(range(len(answer))):
            yield f"positions {positions}"
        if not sent.answer.startswith(text := _text(answer)):
            yield f"not a part of the answer: {text!r}"


def _answers(got: Sequence[Got]) -> list[list[Got]]:
    """The deltas, split where the answer begins anew."""
    answers: list[list[Got]] = [[]]
    for delta in got:
        if delta.restarted:
            answers.append([])
        answers[-1].append(delta)
    return answers


def _text(answer: Sequence[Got]) -> str:
    return "".join(delta.text for delta in answer)


def _check_end(sent: Sent, got: Sequence[Got], end: Ended, events: Sequence[Event]) -> Iterable[str]:
    text = _text(_answers(got)[-1])
    accepted = any(isinstance(event, Accepted) for event in events)
    asked = any(isinstance(event, CancelAsked) for event in events)
    if end.how == "abandoned":
        return
    if not accepted:
        if end.how not in _NOT_ACCEPTED or got:
            yield f"not accepted, but {end.how} after {len(got)} deltas"
        return
    match end.how:
        case "completed":
            if text != sent.answer:
                yield f"completed with {text!r}"
        case "interrupted":
            if end.partial != text:
                yield f"interrupted with {end.partial!r} after {text!r}"
        case "cancelled":
            if not asked:
                yield "cancelled by nobody"
        case _:
            yield f"ended as {end.how}"
