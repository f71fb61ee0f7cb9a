"""The messages between agent and worker while a request runs: deltas, an ending, and what each asks of the other.

All messages are JSON and carry the version `v`; readers ignore unknown fields. No `repr` contains prompts or output,
and validation errors do not quote their input.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, SerializeAsAny, TypeAdapter
from pydantic_core import to_json

from .answers import TokenDelta, Usage
from .errors import ErrorReport
from .kinds import read_result
from .results import Progress, Result
from .wire import CONFIG, Versioned

# On a request's delta channel, from worker or script to agent.


class _FromAttempt(Versioned):
    attempt: int


class Deltas(_FromAttempt):
    """Consecutive deltas, the first at position `first`. Fields that they share are sent once."""

    type: Literal["deltas"] = "deltas"
    worker: str
    lane: str
    model: str
    first: int
    deltas: list[TokenDelta] = Field(repr=False)


def deltas_writer(attempt: int, worker: str, lane: str, model: str) -> Callable[[int, Iterable[bytes]], bytes]:
    """Return a function that writes the `Deltas` messages of one attempt, given `first` and its deltas as `delta_piece`
    wrote them. Building a `Deltas` for every message would cost three times as much."""
    empty = Deltas(attempt=attempt, worker=worker, lane=lane, model=model, first=0, deltas=[]).to_wire()
    head = empty.removesuffix(b'0,"deltas":[]}')
    return lambda first, pieces: b'%b%d,"deltas":[%b]}' % (head, first, b",".join(pieces))


def delta_piece(delta: TokenDelta) -> bytes:
    """Write one delta of a `Deltas` message.

    Raises:
        ValueError: JSON cannot represent its text, which holds half a surrogate pair.
    """
    # Nearly every delta is text alone, which takes a third of the time this way.
    if delta.model_fields_set == {"text"}:
        return b'{"text":%b}' % to_json(delta.text)
    return delta.to_wire()


class Resume(_FromAttempt):
    """A later attempt asks which deltas the agent has. The agent answers `worker` with a `Handover`."""

    type: Literal["resume"] = "resume"
    worker: str


class Progressed(_FromAttempt):
    """The progress of long work. Only the latest counts, so a lost message is not sent again."""

    type: Literal["progressed"] = "progressed"
    worker: str
    lane: str
    progress: Progress


class Completed(_FromAttempt):
    """The answer is complete with `end` deltas; this message contains the last ones, from position `first`. A `result`
    counts as one more position, the last."""

    type: Literal["completed"] = "completed"
    worker: str
    lane: str
    model: str
    first: int
    end: int
    usage: Usage
    deltas: list[TokenDelta] = Field(default_factory=list, repr=False)
    result: Annotated[SerializeAsAny[Result] | None, BeforeValidator(read_result)] = Field(default=None, repr=False)


class Failed(_FromAttempt):
    """The request failed after `end` deltas; this message contains the last ones, from position `first`."""

    type: Literal["failed"] = "failed"
    worker: str = ""
    lane: str = ""
    model: str = ""
    first: int = 0
    end: int = 0
    error: ErrorReport
    deltas: list[TokenDelta] = Field(default_factory=list, repr=False)


class Cancelled(_FromAttempt):
    """The request was cancelled."""

    type: Literal["cancelled"] = "cancelled"


class Expired(_FromAttempt):
    """The request's deadline passed."""

    type: Literal["expired"] = "expired"


class Attached(_FromAttempt):
    """`client` owns the request now; other clients on the channel only listen."""

    type: Literal["attached"] = "attached"
    client: str


ChannelMessage = Deltas | Resume | Progressed | Completed | Failed | Cancelled | Expired | Attached


# On a worker's control channel, from script or agent to worker.


class _ForAttempt(Versioned):
    id: str
    attempt: int


class Cancel(_ForAttempt):
    """Stop the attempt: the request was cancelled, or its deadline has passed."""

    type: Literal["cancel"] = "cancel"
    reason: Literal["cancelled", "expired"] = "cancelled"


class Replay(_ForAttempt):
    """Publish everything from position `after` on again, and the ending if there is one: the agent lacks it."""

    type: Literal["replay"] = "replay"
    after: int


class Handover(_ForAttempt):
    """The agent's answer to `Resume`: it has all deltas before `position`.

    `done`: the request has already ended for the agent. `stale`: the agent knows a newer attempt.
    """

    type: Literal["handover"] = "handover"
    state: Literal["open", "done", "stale"] = "open"
    position: int = 0


ControlMessage = Cancel | Replay | Handover

_channel: TypeAdapter[ChannelMessage] = TypeAdapter(
    Annotated[ChannelMessage, Field(discriminator="type")], config=CONFIG
)
_control: TypeAdapter[ControlMessage] = TypeAdapter(
    Annotated[ControlMessage, Field(discriminator="type")], config=CONFIG
)


def channel_message(data: bytes) -> ChannelMessage:
    """Parse a message from a delta channel.

    Raises:
        pydantic.ValidationError: it is not such a message. The error does not quote it.
    """
    return _channel.validate_json(data)


def control_message(data: bytes) -> ControlMessage:
    """Parse a message from a control channel.

    Raises:
        pydantic.ValidationError: it is not such a message. The error does not quote it.
    """
    return _control.validate_json(data)
