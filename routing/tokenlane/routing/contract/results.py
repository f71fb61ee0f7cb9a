"""What comes of requests that are no chats: what is known of models, how far a command is, vectors."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tokenlane.routing.support.byte_sizes import sized

from .wire import Value


class ModelInfo(Value):
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


class Progress(Value):
    """How far a model command has come. `step`: what is being done, for people; `total_bytes`: None where unknown."""

    step: str
    done_bytes: int = 0
    total_bytes: int | None = None

    def __str__(self) -> str:
        """The progress for people, on a part of a line."""
        if not self.total_bytes:
            return self.step
        return f"{self.step}: {sized(self.done_bytes)} of {sized(self.total_bytes)}"


class Result(Value):
    """What comes of a request that is no chat, as one."""

    type: str

    def model_post_init(self, context: object, /) -> None:
        self.model_fields_set.add("type")


class Vectors(Result):
    """What texts were turned into, in their order. `data`: float32, little-endian, vector after vector, in base64."""

    type: Literal["vectors"] = "vectors"
    dimensions: int
    data: str = Field(repr=False)


class ModelReport(Result):
    """The models a command was about, as they are now."""

    type: Literal["models"] = "models"
    models: tuple[ModelInfo, ...] = ()
