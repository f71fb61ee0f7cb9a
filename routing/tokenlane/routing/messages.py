"""What crosses the wire: requests on the way in, deltas and one ending on the way out.

All of it is JSON and carries the version `v`. Readers ignore fields they do not know. Nothing that may hold what an
agent said or was told (messages, text, tool arguments) is part of a `repr`, and validation errors do not quote input.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Annotated, Generic, Literal, Self, TypeAlias, TypedDict

from pydantic import BaseModel, ConfigDict, Field, JsonValue, TypeAdapter, model_validator
from pydantic_core import to_json
from typing_extensions import TypeVar

from .errors import ErrorReport
from .sizes import sized

__all__ = [
    "COMMAND_TIME_TO_LIVE_MS",
    "DEFAULT_TIME_TO_LIVE_MS",
    "EMBED_INPUTS",
    "WIRE_VERSION",
    "Answer",
    "Attached",
    "Cancel",
    "Cancelled",
    "ChannelMessage",
    "ChatOptions",
    "ChatRequest",
    "Completed",
    "ControlMessage",
    "Deltas",
    "EmbedRequest",
    "Envelope",
    "Expired",
    "Failed",
    "FinishReason",
    "Handover",
    "Kind",
    "Message",
    "ModelAction",
    "ModelCommand",
    "ModelInfo",
    "ModelReport",
    "Needs",
    "Parsed",
    "Priority",
    "Progress",
    "Progressed",
    "Replay",
    "Result",
    "Resume",
    "TokenDelta",
    "ToolCall",
    "ToolCallDelta",
    "Usage",
    "Vectors",
    "channel_message",
    "control_message",
    "deltas_writer",
    "new_id",
]

WIRE_VERSION = 1
DEFAULT_TIME_TO_LIVE_MS = 600_000
COMMAND_TIME_TO_LIVE_MS = 6 * 3_600_000
EMBED_INPUTS = 2048
"""Texts in one embed request, at most."""

Priority = Literal["high", "normal", "low"]
Kind = Literal["chat", "embed", "command"]
ModelAction = Literal["list", "pull", "verify", "load", "unload"]
FinishReason = Literal["stop", "length", "tool_calls", "content_filter"]
Name: TypeAlias = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.@-]{0,127}$")]
"""A role, agent, lane or client: part of key names, so letters, digits and `_ . @ -` only, 128 at most."""

Parsed = TypeVar("Parsed", bound=BaseModel, default=BaseModel)
"""The model an answer was asked for as `response_format`."""

Ability: TypeAlias = Annotated[str, Field(pattern=r"^[a-z]{1,32}$")]
"""Something a model can do: chat, embed, tools, schema, vision, prefill."""

RequestId: TypeAlias = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]


def new_id() -> str:
    """A request id: 128 random bits as 32 hexadecimal digits."""
    return secrets.token_hex(16)


_CONFIG = ConfigDict(extra="ignore", hide_input_in_errors=True)


class _Wire(BaseModel):
    model_config = _CONFIG

    def to_wire(self) -> bytes:
        """The message as JSON: the fields that were set; of a versioned message always its version and type."""
        return self.model_dump_json(exclude_unset=True).encode()


class _Value(_Wire):
    model_config = ConfigDict(frozen=True)


class _Versioned(_Wire):
    v: int = WIRE_VERSION

    def model_post_init(self, context: object, /) -> None:
        self.model_fields_set.update({"v", "type"} & type(self).model_fields.keys())


class ToolCall(_Value):
    """A call the model asks for. `arguments` is the JSON text as the model wrote it."""

    id: str
    name: str
    arguments: str = Field(default="", repr=False)


class ToolCallDelta(_Value):
    """A piece of a tool call; pieces with the same `index` belong together, `arguments` are concatenated."""

    index: int = 0
    id: str | None = None
    name: str | None = None
    arguments: str = Field(default="", repr=False)


class Message(_Value):
    """One turn of a conversation, in OpenAI's shape.

    `content` is text, or a list of parts such as `{"type": "text", "text": ...}` and
    `{"type": "image_url", "image_url": {"url": ...}}`. `tool_calls` keep OpenAI's nested shape and go to the back end
    as they are.
    """

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[dict[str, JsonValue]] | None = Field(default=None, repr=False)
    name: str | None = None
    tool_calls: list[dict[str, JsonValue]] | None = Field(default=None, repr=False)
    tool_call_id: str | None = None


class ChatOptions(TypedDict, total=False):
    """What may be asked of the model; what is left out is the back end's default."""

    model: str | None
    provider: str | None
    temperature: float | None
    top_p: float | None
    top_k: int | None
    min_p: float | None
    frequency_penalty: float | None
    presence_penalty: float | None
    repetition_penalty: float | None
    max_tokens: int | None
    stop: list[str] | str | None
    seed: int | None
    logit_bias: dict[str, float] | None
    logprobs: bool | None
    top_logprobs: int | None
    tools: list[dict[str, JsonValue]] | None
    tool_choice: str | dict[str, JsonValue] | None
    parallel_tool_calls: bool | None
    reasoning_effort: str | None
    extra: dict[str, JsonValue] | None
    priority: Priority
    time_to_live_ms: int
    conversation_id: str | None
    idempotency_key: str | None
    metadata: dict[str, JsonValue] | None


class ChatRequest(_Value):
    """A chat request as an agent submits it.

    `time_to_live_ms` counts from when the pool accepts it. `extra` goes into the back end's request body as it is.
    One answer a request: there is no `n`.
    """

    id: RequestId = Field(default_factory=new_id)
    role: Name
    messages: list[Message] = Field(min_length=1, repr=False)
    model: str | None = Field(default=None, min_length=1, max_length=256)
    provider: str | None = None
    temperature: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    top_p: float | None = Field(default=None, gt=0, le=1)
    top_k: int | None = None
    min_p: float | None = Field(default=None, ge=0, le=1)
    frequency_penalty: float | None = Field(default=None, allow_inf_nan=False)
    presence_penalty: float | None = Field(default=None, allow_inf_nan=False)
    repetition_penalty: float | None = Field(default=None, allow_inf_nan=False)
    max_tokens: int | None = Field(default=None, ge=1)
    stop: list[str] | str | None = Field(default=None, repr=False)
    seed: int | None = None
    logit_bias: dict[str, float] | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = Field(default=None, ge=0)
    tools: list[dict[str, JsonValue]] | None = Field(default=None, repr=False)
    tool_choice: str | dict[str, JsonValue] | None = Field(default=None, repr=False)
    parallel_tool_calls: bool | None = None
    response_format: dict[str, JsonValue] | None = Field(default=None, repr=False)
    reasoning_effort: str | None = None
    extra: dict[str, JsonValue] | None = Field(default=None, repr=False)
    priority: Priority = "normal"
    time_to_live_ms: int = Field(default=DEFAULT_TIME_TO_LIVE_MS, ge=1, le=86_400_000)
    conversation_id: str | None = Field(default=None, repr=False)
    idempotency_key: str | None = Field(default=None, min_length=1, max_length=1024, repr=False)
    metadata: dict[str, JsonValue] | None = Field(default=None, repr=False)

    def model_post_init(self, context: object, /) -> None:
        self.model_fields_set.add("id")  # given or made here, it goes onto the wire


class EmbedRequest(_Value):
    """Texts to be turned into vectors. `dimensions`: how many each is to have, for models that can choose. `fallback`:
    "error" if the fallback model's vectors are of no use, whatever the pool's policy says."""

    id: RequestId = Field(default_factory=new_id)
    role: Name
    inputs: list[str] = Field(min_length=1, max_length=EMBED_INPUTS, repr=False)
    model: str | None = Field(default=None, min_length=1, max_length=256)
    provider: str | None = None
    dimensions: int | None = Field(default=None, ge=1, le=65_536)
    fallback: Literal["error"] | None = None
    priority: Priority = "normal"
    time_to_live_ms: int = Field(default=DEFAULT_TIME_TO_LIVE_MS, ge=1, le=86_400_000)
    idempotency_key: str | None = Field(default=None, min_length=1, max_length=1024, repr=False)
    metadata: dict[str, JsonValue] | None = Field(default=None, repr=False)

    def model_post_init(self, context: object, /) -> None:
        self.model_fields_set.add("id")


class ModelCommand(_Value):
    """Something to do with a lane's models. `model`: None for `list` alone. `lane`: None where any will do."""

    id: RequestId = Field(default_factory=new_id)
    role: Name = "models"
    action: ModelAction
    model: str | None = Field(default=None, min_length=1, max_length=2048)
    lane: Name | None = None
    priority: Priority = "normal"
    time_to_live_ms: int = Field(default=COMMAND_TIME_TO_LIVE_MS, ge=1, le=86_400_000)

    def model_post_init(self, context: object, /) -> None:
        self.model_fields_set.add("id")

    @model_validator(mode="after")
    def _names_its_model(self) -> Self:
        if (self.model is None) != (self.action == "list"):
            raise ValueError("every action but list names a model")
        return self


class Needs(_Value):
    """What a lane must offer to serve a request. All requests of one queue have the same needs.

    `size`: estimated prompt tokens plus max_tokens, rounded up to a power of two. `input`: estimated prompt tokens,
    rounded up a little; 0 if few. `lane`: the only one that will do. `can`: what the model should be able to do beside
    the kind of work itself, such as `tools`, sorted.
    """

    model: str | None = None
    provider: str | None = None
    size: int = 1
    input: int = 0
    lane: Name | None = None
    can: tuple[Ability, ...] = ()


class Envelope(_Versioned):
    """The part of a request that scripts and routers read. All else is the payload."""

    id: RequestId
    client: Name
    agent: Name
    role: Name
    kind: Kind = "chat"
    priority: Priority = "normal"
    needs: Needs = Needs()
    tokens: int = 1
    """Estimated prompt tokens plus max_tokens."""
    time_to_live_ms: int = DEFAULT_TIME_TO_LIVE_MS
    key_id: str | None = None
    idempotency: str | None = Field(default=None, pattern=r"^[0-9a-f]{32,64}$")
    """The agent's idempotency key, as a keyed hash."""
    trace: dict[str, str] = {}
    """W3C trace context: `traceparent` and, if any, `tracestate`."""


class Usage(_Value):
    """What a request cost. Times are milliseconds; `queue_ms` runs from acceptance to the start on a lane,
    `first_token_ms` and `total_ms` from the start on the lane."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    queue_ms: float = 0
    first_token_ms: float = 0
    total_ms: float = 0
    attempts: int = 1


class TokenDelta(_Wire):
    """One piece of streamed output.

    `position` counts the deltas of an answer from 0, across attempts. `tokens` is how many tokens the piece holds as
    far as the back end says, else 0. `usage` comes with the last piece only, from the provider.
    """

    request_id: str = ""
    attempt: int = 0
    position: int = 0
    text: str = Field(default="", repr=False)
    reasoning: str = Field(default="", repr=False)
    tool_calls: tuple[ToolCallDelta, ...] = Field(default=(), repr=False)
    finish_reason: FinishReason | None = None
    tokens: int = 0
    model: str = ""
    lane: str = ""
    usage: Usage | None = None


class Answer(_Value, Generic[Parsed]):
    """A whole answer. `parsed`: what it says, if it was asked for in the form of a model; None if it calls tools."""

    request_id: str
    text: str = Field(default="", repr=False)
    reasoning: str = Field(default="", repr=False)
    tool_calls: tuple[ToolCall, ...] = Field(default=(), repr=False)
    finish_reason: FinishReason | None = None
    usage: Usage = Usage()
    model: str = ""
    lane: str = ""
    parsed: Parsed | None = Field(default=None, repr=False)


class ModelInfo(_Value):
    """A model as a back end lists it. Sizes are bytes, `context_length` is tokens; None where it does not say."""

    name: str
    provider: str = ""
    lane: str = ""
    digest: str | None = None
    size_bytes: int | None = None
    quantisation: str | None = None
    context_length: int | None = None
    loaded: bool | None = None
    capabilities: tuple[str, ...] = ()

    @property
    def chats(self) -> bool:
        """Whether it can chat; a back end that says nothing of its models has such as can."""
        return not self.capabilities or "chat" in self.capabilities

    @property
    def embeds(self) -> bool:
        """Whether it turns texts into vectors."""
        return "embed" in self.capabilities


class Progress(_Value):
    """How far a model command has come. `step`: what is being done, for people; `total_bytes`: None where unknown."""

    step: str
    done_bytes: int = 0
    total_bytes: int | None = None

    def __str__(self) -> str:
        """The progress for people, on a part of a line."""
        if not self.total_bytes:
            return self.step
        return f"{self.step}: {sized(self.done_bytes)} of {sized(self.total_bytes)}"


class _Result(_Value):
    def model_post_init(self, context: object, /) -> None:
        self.model_fields_set.add("type")


class Vectors(_Result):
    """What texts were turned into, in their order. `data`: float32, little-endian, vector after vector, in base64."""

    type: Literal["vectors"] = "vectors"
    dimensions: int
    data: str = Field(repr=False)


class ModelReport(_Result):
    """The models a command was about, as they are now."""

    type: Literal["models"] = "models"
    models: tuple[ModelInfo, ...] = ()


Result: TypeAlias = Annotated[Vectors | ModelReport, Field(discriminator="type")]
"""What comes of a request that is no chat, as one."""


# On a request's delta channel, from worker or script to agent.


class _FromAttempt(_Versioned):
    attempt: int


class Deltas(_FromAttempt):
    """Consecutive deltas, the first at position `first`. Fields common to all of them stand here once."""

    type: Literal["deltas"] = "deltas"
    worker: str
    lane: str
    model: str
    first: int
    deltas: list[TokenDelta] = Field(repr=False)


_TEXT_ALONE = {"text"}


def deltas_writer(attempt: int, worker: str, lane: str, model: str) -> Callable[[int, list[TokenDelta]], bytes]:
    """Writes the `Deltas` of one answer, from `first` and `deltas`: a third of the cost of a message model for each."""
    message = Deltas(attempt=attempt, worker=worker, lane=lane, model=model, first=0, deltas=[]).to_wire()
    head = message.removesuffix(b'0,"deltas":[]}')

    def write(first: int, deltas: list[TokenDelta]) -> bytes:
        return b'%b%d,"deltas":[%b]}' % (head, first, b",".join(map(_piece, deltas)))

    return write


def _piece(delta: TokenDelta) -> bytes:
    # Nearly all are text alone, which takes a third of the time this way.
    if delta.model_fields_set == _TEXT_ALONE:
        return b'{"text":%b}' % to_json(delta.text)
    return delta.to_wire()


class Resume(_FromAttempt):
    """A later attempt asks how far the agent has got. The agent answers `worker` with a `Handover`."""

    type: Literal["resume"] = "resume"
    worker: str


class Progressed(_FromAttempt):
    """How far the work has come that the request waits for. The newest counts: one that is lost is not sent again."""

    type: Literal["progressed"] = "progressed"
    worker: str
    lane: str
    progress: Progress


class Completed(_FromAttempt):
    """The answer is whole: it has `end` deltas, the last of which are here, from position `first`. A `result` is one
    more, the last."""

    type: Literal["completed"] = "completed"
    worker: str
    lane: str
    model: str
    first: int
    end: int
    usage: Usage
    deltas: list[TokenDelta] = Field(default=[], repr=False)
    result: Result | None = Field(default=None, repr=False)


class Failed(_FromAttempt):
    """The request failed; `end` deltas were produced before, the last of which are here, from position `first`."""

    type: Literal["failed"] = "failed"
    worker: str = ""
    lane: str = ""
    model: str = ""
    first: int = 0
    end: int = 0
    error: ErrorReport
    deltas: list[TokenDelta] = Field(default=[], repr=False)


class Cancelled(_FromAttempt):
    """The request was cancelled."""

    type: Literal["cancelled"] = "cancelled"


class Expired(_FromAttempt):
    """The request's deadline passed."""

    type: Literal["expired"] = "expired"


class Attached(_FromAttempt):
    """`client` has made the request its own: the others on the channel only listen now."""

    type: Literal["attached"] = "attached"
    client: str


ChannelMessage = Deltas | Resume | Progressed | Completed | Failed | Cancelled | Expired | Attached


# On a worker's control channel, from script or agent to worker.


class _ForAttempt(_Versioned):
    id: str
    attempt: int


class Cancel(_ForAttempt):
    """Stop: the request was cancelled, or its deadline has passed."""

    type: Literal["cancel"] = "cancel"
    reason: Literal["cancelled", "expired"] = "cancelled"


class Replay(_ForAttempt):
    """The agent lacks everything from position `after` on: publish it again, and the ending if there was one."""

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
    Annotated[ChannelMessage, Field(discriminator="type")], config=_CONFIG
)
_control: TypeAdapter[ControlMessage] = TypeAdapter(
    Annotated[ControlMessage, Field(discriminator="type")], config=_CONFIG
)


def channel_message(data: bytes) -> ChannelMessage:
    """Read a message of a delta channel.

    Raises:
        pydantic.ValidationError: it is none; the error does not quote it.
    """
    return _channel.validate_json(data)


def control_message(data: bytes) -> ControlMessage:
    """Read a message of a control channel.

    Raises:
        pydantic.ValidationError: it is none; the error does not quote it.
    """
    return _control.validate_json(data)
