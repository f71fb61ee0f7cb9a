"""What a dialect must say."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

from aiohttp import web
from pydantic import JsonValue

from tokenlane.benches.script import Script

__all__ = ["Dialect", "Page", "Spoken"]

Page = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True)
class Spoken:
    """One answer: the request it is for, and what its script says."""

    index: int
    model: str
    prompt_tokens: int
    script: Script


class Dialect(ABC):
    """How one kind of server puts things. It makes bytes; the simulator decides when, and whether, they are sent."""

    stream_type: ClassVar[str]
    chat_path: ClassVar[str]
    ping: ClassVar[bytes]
    """Keeps a connection open and says nothing."""
    malformed: ClassVar[bytes]
    """A piece that is no JSON."""
    huge_start: ClassVar[bytes]
    """How a line without end begins."""

    def __init__(self, models: Iterable[str], slots: Callable[[], list[int | None]]) -> None:
        self.models = tuple(models)
        self.slots = slots
        """For each slot the index of the request in it."""

    @abstractmethod
    def wanted_tokens(self, body: Mapping[str, JsonValue]) -> int | None:
        """The limit a request sets."""

    @abstractmethod
    def piece(self, answer: Spoken, text: str) -> bytes:
        """A piece of the answer."""

    @abstractmethod
    def ending(self, answer: Spoken, tokens: int) -> Iterator[bytes]:
        """All that follows the last piece."""

    @abstractmethod
    def error(self, status: int, error: JsonValue) -> JsonValue:
        """The body of a refusal. `error`: what its script says, None for the simulator's own words."""

    @abstractmethod
    def error_in_stream(self, error: JsonValue) -> Iterator[bytes]:
        """The same in the middle of an answer, to the stream's end."""

    @abstractmethod
    def pages(self) -> Mapping[str, Page]:
        """The other pages there are, by method and path."""
