"""The base of all dialects: what a kind of server serves, and how it refuses."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import ClassVar

from aiohttp import web
from pydantic import JsonValue

from tokenlane.benches.simulator.engine import Engine
from tokenlane.benches.simulator.exchange import Exchange
from tokenlane.benches.simulator.fault_script import FaultScript
from tokenlane.benches.simulator.model.answer import Ask
from tokenlane.benches.simulator.model.models import Instance, Model
from tokenlane.benches.simulator.model.refusals import Refused

from .encoder import Encoder
from .request_fields import parse

Page = Callable[[web.Request], Awaitable[web.StreamResponse]]
Work = Callable[[Exchange], Awaitable[web.StreamResponse]]


class Dialect(ABC):
    """A kind of server."""

    preloads: ClassVar[bool] = True
    """Its models are in memory from the start, and stay."""
    exact_names: ClassVar[bool] = True
    queue: ClassVar[int | None] = None
    """How many may wait."""
    most_loaded: ClassVar[int | None] = None
    keeps_alive: ClassVar[bool] = True
    """Whether a connection carries another request after a stream."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.models = engine.models

    @abstractmethod
    def encoders(self) -> Mapping[str, Encoder]:
        """Return its encoders of chats, by path."""

    def works(self) -> Mapping[str, Work]:
        """Return the pages that do work and are logged, by method and path."""
        return {}

    @abstractmethod
    def pages(self) -> Mapping[str, Page]:
        """Return the pages that only inform, by method and path."""

    @abstractmethod
    def error(self, status: int, error: JsonValue) -> JsonValue:
        """The body of a refusal that is scripted.

        Args:
            error: what the script says; None for the server's own words.
        """

    @abstractmethod
    def refusal(self, refused: Refused) -> web.Response:
        """Return a refusal in the server's words."""

    def guards(self, path: str) -> bool:
        """Whether this path requires the API key, if the server has one."""
        return True

    def no_route(self, request: web.Request) -> web.Response:
        """Answer a request to an unknown path."""
        return web.json_response({"detail": "Not Found"}, status=404)

    def parsed(self, body: bytes) -> dict[str, JsonValue]:
        """The JSON object a request holds.

        Raises:
            Refused: it holds none.
        """
        return parse(body)

    def instead(
        self, encoder: Encoder, ask: Ask, model: Model, script: FaultScript
    ) -> Awaitable[web.StreamResponse] | None:
        """Answer a request that wants no generation, such as loading a model; None if it wants one."""
        return None

    def chosen(self, ask: Ask) -> Model:
        """The model that answers.

        Raises:
            Refused: there is none.
        """
        model = self.models.find(ask.model)
        if model is None:
            raise Refused("model_missing", model=ask.model)
        return model

    async def ready(self, ask: Ask, model: Model, script: FaultScript) -> Instance:
        """The model in memory.

        Raises:
            Refused: it cannot be brought there.
        """
        return await self.engine.instance(model, script, context_length=ask.context_length)

    def settled(self, ask: Ask, model: Model) -> Ask:
        """The request once it is known which model answers.

        Raises:
            Refused: that one cannot.
        """
        if model.embeds:
            raise Refused("cannot_chat", model=model.name)
        if not model.sees and any(turn.images for turn in ask.turns):
            raise Refused("cannot_see", model=model.name)
        return replace(ask, think=bool(model.thinks and ask.think is not False))

    def named(self, ask: Ask, model: Model) -> str:
        """Return the model's name in the answer."""
        return model.name

    def context(self, instance: Instance) -> int:
        """Return the limit of tokens for prompt and answer together."""
        return instance.context_length

    def done_with(self, ask: Ask, instance: Instance) -> None:  # noqa: B027 - most servers do nothing then
        """Called after each answer."""
