"""The base class of dialects. A dialect defines the paths of one kind of server, and how that server words refusals."""

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

InfoHandler = Callable[[web.Request], Awaitable[web.StreamResponse]]
LoggedHandler = Callable[[Exchange], Awaitable[web.StreamResponse]]


class Dialect(ABC):
    """One kind of server. The defaults are those of most servers."""

    preloads: ClassVar[bool] = True
    """Whether all models are in memory from the start, and stay there."""
    exact_names: ClassVar[bool] = True
    """Whether names of models must match exactly; see `SimulatedModels`."""
    queue: ClassVar[int | None] = None
    """How many requests may wait for a slot; None: no limit."""
    most_loaded: ClassVar[int | None] = None
    """How many models may be in memory at once; None: no limit."""
    keeps_alive: ClassVar[bool] = True
    """Whether a connection stays open after a stream."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.models = engine.models

    @abstractmethod
    def encoders(self) -> Mapping[str, Encoder]:
        """Return the encoders of chats, by path."""

    def logged_handlers(self) -> Mapping[str, LoggedHandler]:
        """Return the handlers that embed texts or change models, by `METHOD /path`. The log contains their requests."""
        return {}

    @abstractmethod
    def handlers(self) -> Mapping[str, InfoHandler]:
        """Return the handlers that only show information, by `METHOD /path`. The log omits their requests."""

    @abstractmethod
    def scripted_error(self, status: int, error: JsonValue) -> JsonValue:
        """Return the body of an error that a fault script demands.

        Args:
            error: the error in the script; None: a default in the shape of the server's errors.
        """

    @abstractmethod
    def refusal(self, refused: Refused) -> web.Response:
        """Return the response to a request that the server refuses."""

    def requires_key(self, path: str) -> bool:
        """Whether this path requires the API key, if the simulator has a key."""
        return True

    def sends_key(self, request: web.Request, key: str) -> bool:
        """Whether the request sends this API key."""
        return request.headers.get("Authorization", "").casefold() == f"Bearer {key}".casefold()

    def unknown_path(self, request: web.Request) -> web.Response:
        """Return the response to a request for an unknown path."""
        return web.json_response({"detail": "Not Found"}, status=404)

    def parse_body(self, body: bytes) -> dict[str, JsonValue]:
        """Parse the body of a chat request.

        Raises:
            Refused: the body is not a JSON object.
        """
        return parse(body)

    def answer_without_generating(
        self, encoder: Encoder, ask: Ask, model: Model, script: FaultScript
    ) -> Awaitable[web.StreamResponse] | None:
        """Answer a request that needs no generated text, such as one to load a model; None if it needs text."""
        return None

    def model_for(self, ask: Ask) -> Model:
        """Return the model that answers this request.

        Raises:
            Refused: no model can answer it.
        """
        model = self.models.find(ask.model)
        if model is None:
            raise Refused("model_missing", model=ask.model)
        return model

    async def load_model(self, ask: Ask, model: Model, script: FaultScript) -> Instance:
        """Return an instance of the model, and load the model if necessary.

        Raises:
            Refused: the model cannot be loaded.
        """
        return await self.engine.instance(model, script, context_length=ask.context_length)

    def adapt_to_model(self, ask: Ask, model: Model) -> Ask:
        """Return the request with the defaults of the model that will answer it.

        Raises:
            Refused: this model cannot answer it.
        """
        if model.embeds:
            raise Refused("cannot_chat", model=model.name)
        if not model.sees and any(turn.images for turn in ask.turns):
            raise Refused("cannot_see", model=model.name)
        return replace(ask, think=bool(model.thinks and ask.think is not False))

    def name_in_answer(self, ask: Ask, model: Model) -> str:
        """Return the name of the model as the answer states it."""
        return model.name

    def context_limit(self, instance: Instance) -> int:
        """Return how many tokens prompt and answer may have together."""
        return instance.context_length

    def after_answer(self, ask: Ask, instance: Instance) -> None:  # noqa: B027 - most servers do nothing
        """Update the instance after an answer."""
