"""The results of embed requests and model commands: vectors, lists of models, progress."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tokenlane.routing.support.byte_sizes import format_bytes

from .wire import Value


class ModelInfo(Value):
    """A model as its model server lists it. A field that the server omits is None. `context_length` is in tokens.

    `pinned_by` is the file and line that pin the model's digest, on the host of the lane's worker; None: not pinned.
    `offered` is whether the lane offers the model to requests; None outside lists. `not_offered_because` is the reason
    if the lane does not, as far as it knows. `kv_tokens_kept`: how many tokens of the model's KV cache the server
    restored when it loaded the model again; None if the lane keeps none. `kv_lost_because`: why tokens were lost.
    """

    name: str
    provider: str = ""
    lane: str = ""
    digest: str | None = None
    size_bytes: int | None = None
    quantisation: str | None = None
    context_length: int | None = None
    loaded: bool | None = None
    capabilities: tuple[str, ...] = ()
    pinned_by: str | None = None
    offered: bool | None = None
    not_offered_because: str = ""
    kv_tokens_kept: int | None = None
    kv_lost_because: str = ""

    @property
    def chats(self) -> bool:
        """Whether the model can chat. A model whose capabilities the server does not report is assumed to chat."""
        return not self.capabilities or "chat" in self.capabilities

    @property
    def embeds(self) -> bool:
        """Whether the model can embed."""
        return "embed" in self.capabilities


class Progress(Value):
    """The progress of a model command. `step`: the current step, in words; `total_bytes`: None if unknown."""

    step: str
    done_bytes: int = 0
    total_bytes: int | None = None

    def __str__(self) -> str:
        """The progress in words, such as `downloading: 1.2 GB of 4.0 GB`."""
        if not self.total_bytes:
            return self.step
        return f"{self.step}: {format_bytes(self.done_bytes)} of {format_bytes(self.total_bytes)}"


class Result(Value):
    """The result of a request that is not answered by a stream of deltas."""

    type: str

    def model_post_init(self, context: object, /) -> None:
        self.model_fields_set.add("type")


class Vectors(Result):
    """One vector for each text, in the order of the texts. `data`: the vectors as little-endian float32, concatenated,
    in base64."""

    type: Literal["vectors"] = "vectors"
    dimensions: int
    data: str = Field(repr=False)


class ModelReport(Result):
    """The models that a command listed or changed, in their state after the command."""

    type: Literal["models"] = "models"
    models: tuple[ModelInfo, ...] = ()
