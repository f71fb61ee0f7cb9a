"""The messages between agent and worker while a request runs: deltas, endings, cancellation, replay and handovers.

All messages are JSON with the version in `v`; readers ignore unknown fields. No `repr` contains prompts or output, and
validation errors do not quote their input. With a pool key, workers and agents seal these messages, as
`sealing/messages.py` describes. The messages of scripts and routers stay plain: they contain ids, codes and
tokenlane's own texts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, SerializeAsAny, TypeAdapter
from pydantic_core import to_json

from .answers import FinishReason, TokenDelta, Usage
from .errors import ErrorReport
from .kinds import read_result
from .results import Progress, Result
from .wire import CONFIG, Versioned

# Messages on a request's delta channel, from a worker or a script to the agent.


class _FromAttempt(Versioned):
    attempt: int


class Deltas(_FromAttempt):
    """Consecutive deltas, the first at position `first`. `worker`, `lane` and `model` apply to all of them.

    `begun_by`: the attempt that began the answer anew, which makes void what earlier attempts sent; 0 if none did. All
    messages of that attempt say so, and all messages of the attempts that continue it. `served_as`: the lane's own name
    of the model; empty if the model server names its model in the same way.

    `stands_for`: if set, the only delta has the text of the first `stands_for` deltas of the answer. The worker that
    continues an answer replays the earlier part in this way.
    """

    type: Literal["deltas"] = "deltas"
    worker: str
    lane: str
    model: str
    first: int
    deltas: list[TokenDelta] = Field(repr=False)
    begun_by: int = 0
    served_as: str = ""
    stands_for: int = Field(default=0, ge=0)


def deltas_writer(
    attempt: int, worker: str, lane: str, model: str, *, begun_by: int = 0, served_as: str = ""
) -> Callable[[int, Iterable[bytes]], bytes]:
    """Return a function that writes `Deltas` messages for one attempt. It takes `first` and deltas serialized by
    `delta_piece`. Building a `Deltas` object for each message would cost three times as much."""
    empty = Deltas(attempt=attempt, worker=worker, lane=lane, model=model, first=0, deltas=[]).to_wire()
    head = empty.removesuffix(b'0,"deltas":[]}')
    rest = {"begun_by": begun_by, "served_as": served_as}
    tail = b"]%b}" % b"".join(b',"%b":%b' % (name.encode(), to_json(value)) for name, value in rest.items() if value)
    return lambda first, pieces: b'%b%d,"deltas":[%b%b' % (head, first, b",".join(pieces), tail)


def delta_piece(delta: TokenDelta) -> bytes:
    """Serialize one delta for a `Deltas` message.

    Raises:
        ValueError: the text contains half a surrogate pair, which JSON cannot represent.
    """
    # Nearly every delta has only text. This path takes a third of the time.
    if delta.model_fields_set == {"text"}:
        return b'{"text":%b}' % to_json(delta.text)
    return delta.to_wire()


class Resume(_FromAttempt):
    """A later attempt asks which deltas the agent has received. The agent replies to `worker` with a `Handover`."""

    type: Literal["resume"] = "resume"
    worker: str


class Progressed(_FromAttempt):
    """The progress of long work. Only the latest progress matters, so a lost message is not sent again."""

    type: Literal["progressed"] = "progressed"
    worker: str
    lane: str
    progress: Progress


class Completed(_FromAttempt):
    """The answer is complete and has `end` deltas; this message contains the deltas from position `first` on. A
    `result` counts as one more delta, the last."""

    type: Literal["completed"] = "completed"
    worker: str
    lane: str
    model: str
    first: int
    end: int
    usage: Usage
    deltas: list[TokenDelta] = Field(default_factory=list, repr=False)
    result: Annotated[SerializeAsAny[Result] | None, BeforeValidator(read_result)] = Field(default=None, repr=False)
    begun_by: int = 0


class Failed(_FromAttempt):
    """The request failed after `end` deltas; this message contains the deltas from position `first` on."""

    type: Literal["failed"] = "failed"
    worker: str = ""
    lane: str = ""
    model: str = ""
    first: int = 0
    end: int = 0
    error: ErrorReport
    deltas: list[TokenDelta] = Field(default_factory=list, repr=False)
    begun_by: int = 0


class Cancelled(_FromAttempt):
    """The request was cancelled. `code`: '' if a client cancelled it; "orphaned" if its client vanished;
    "purged" if an operator purged its role."""

    type: Literal["cancelled"] = "cancelled"
    code: str = ""


class Expired(_FromAttempt):
    """The request's deadline passed. `code`: why its last attempt had ended; '' if an attempt was running, or if there
    was none."""

    type: Literal["expired"] = "expired"
    code: str = ""


class Attached(_FromAttempt):
    """`client` owns the request now; other clients that read the channel only listen."""

    type: Literal["attached"] = "attached"
    client: str


ChannelMessage = Deltas | Resume | Progressed | Completed | Failed | Cancelled | Expired | Attached


def may_be_plain(message: ChannelMessage) -> bool:
    """Whether a sealed request accepts this message plain: scripts and routers, which have no pool key, send such
    messages, and so does a worker that could not open the request."""
    if isinstance(message, Failed):
        return not message.deltas and not message.error.detail
    return isinstance(message, Cancelled | Expired | Attached)


# Messages on a worker's control channel, from a script or an agent to the worker.


class _ForAttempt(Versioned):
    id: str
    attempt: int


class Cancel(_ForAttempt):
    """Stop the attempt: the request was cancelled, or its deadline has passed."""

    type: Literal["cancel"] = "cancel"
    reason: Literal["cancelled", "expired"] = "cancelled"


class Replay(_ForAttempt):
    """The agent missed messages: publish the deltas from position `after` again, and the ending if the attempt has
    ended."""

    type: Literal["replay"] = "replay"
    after: int


MOST_PIECES = 1024
"""The largest number of messages of one handover, since the worker keeps them until all have arrived."""

_LONGEST_NAME = 1024

Obstacle = Literal["", "tool_call", "reasoning", "schema", "part"]
"""Why no lane can continue an answer: a tool call has begun; the agent has reasoning but no text; the answer must match
a schema, which a continuation would begin anew; the agent joined in the middle, and lacks the first part."""


class Handover(_ForAttempt):
    """The agent's reply to `Resume`: the agent has all deltas before `position`.

    `state`: `done` if the request has already ended for the agent, `stale` if the agent knows a newer attempt.
    `lane` and `model`, by the lane's own name, are those of the agent's last delta; empty if the agent has no delta.

    `text`: the text of the answer so far; `reasoning`: the reasoning before it, for clients that attach later. Long
    ones travel in several messages that have the same position, numbered by `piece` from 0. `tokens`: how many tokens
    they have, counted as one for each delta. `finish_reason`: set if the agent has the whole answer and only misses its
    end. `obstacle`: why no lane can continue the answer; empty if one can. `begun_by`: as in `Deltas`.
    """

    type: Literal["handover"] = "handover"
    state: Literal["open", "done", "stale"] = "open"
    position: int = Field(default=0, ge=0)
    lane: str = Field(default="", max_length=_LONGEST_NAME)
    model: str = Field(default="", max_length=_LONGEST_NAME)
    text: str = Field(default="", repr=False)
    reasoning: str = Field(default="", repr=False)
    piece: int = Field(default=0, ge=0)
    pieces: int = Field(default=1, ge=1, le=MOST_PIECES)
    tokens: int = Field(default=0, ge=0)
    finish_reason: FinishReason | None = None
    obstacle: Obstacle = ""
    begun_by: int = 0


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
        pydantic.ValidationError: it is not a `ChannelMessage`. The error does not quote the message.
    """
    return _channel.validate_json(data)


def control_message(data: bytes) -> ControlMessage:
    """Parse a message from a control channel.

    Raises:
        pydantic.ValidationError: it is not a `ControlMessage`. The error does not quote the message.
    """
    return _control.validate_json(data)
