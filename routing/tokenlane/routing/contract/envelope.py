"""The envelope of a request: the fields that scripts and routers read. Only agents and workers read the payload."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from .kinds import known_kind
from .requests import DEFAULT_TIME_TO_LIVE_MS
from .wire import Ability, Kind, Name, Priority, RequestId, Value, Versioned


class Needs(Value):
    """What a request requires from a lane. All requests in a queue have the same needs.

    `size`: an estimate of the tokens of prompt and answer, rounded up to a power of two. `input`: an estimate of the
    prompt's tokens, or of the longest text's in an embed request, rounded up by a quarter at most; 0 if it is short.
    `lane`: the only lane that may serve the request; None for any. `can`: the abilities, besides its kind of work, that
    the request needs from the model, such as `tools`; sorted. `avoid`: the lanes on which the request failed, the
    latest last; they serve it only while no other candidate has credit. `continues`: the model whose partial answer the
    lane must continue; None for a request without an answer so far. `restarts`: if no lane can continue the answer, a
    lane may begin it anew.
    """

    model: str | None = None
    provider: str | None = None
    size: int = 1
    input: int = 0
    lane: Name | None = None
    can: tuple[Ability, ...] = ()
    avoid: tuple[Name, ...] = ()
    continues: str | None = None
    restarts: bool = False


class Quota(Value):
    """A limit against which a request counts besides the policy's, such as that of an API key. At most `in_flight`
    requests with a quota of this `name` may wait and run at once, whatever their agents."""

    name: Name
    in_flight: int = Field(ge=1)


class Envelope(Versioned):
    """The fields of a request that scripts and routers read."""

    id: RequestId
    client: Name
    agent: Name
    role: Name
    kind: Annotated[Kind, AfterValidator(known_kind)] = "chat"
    priority: Priority = "normal"
    needs: Needs = Needs()
    time_to_live_ms: int = DEFAULT_TIME_TO_LIVE_MS
    key_id: str | None = None
    idempotency: str | None = Field(default=None, pattern=r"^[0-9a-f]{32,64}$")
    """The agent's idempotency key, as a keyed hash."""
    conversation: Name | None = None
    """The id of the conversation to which a chat belongs."""
    quota: Quota | None = None
    """Only the script that submits the request reads it."""
    trace: dict[str, str] = Field(default_factory=dict)
    """The W3C trace context: `traceparent`, and `tracestate` if the sender set it."""
