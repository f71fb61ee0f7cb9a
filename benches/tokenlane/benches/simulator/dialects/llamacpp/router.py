"""The dialect of llama.cpp's `llama-server` in router mode with `--models-max 1`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from aiohttp import web
from pydantic import JsonValue

from tokenlane.benches.simulator.dialects.base import InfoHandler, LoggedHandler
from tokenlane.benches.simulator.dialects.request_fields import parse
from tokenlane.benches.simulator.exchange import Exchange
from tokenlane.benches.simulator.fault_script import FaultScript
from tokenlane.benches.simulator.model.answer import Ask
from tokenlane.benches.simulator.model.models import Instance, Model
from tokenlane.benches.simulator.model.refusals import Refused

from .dialect import LlamaCppDialect


class LlamaCppRouterDialect(LlamaCppDialect):
    """A server that holds one of its models in memory. Loading another one cuts off the requests that run."""

    preloads: ClassVar[bool] = False
    most_loaded: ClassVar[int | None] = 1

    def logged_handlers(self) -> Mapping[str, LoggedHandler]:
        """Return the handlers that load and unload models, and those of llama.cpp."""
        return {
            **super().logged_handlers(),
            "POST /models/load": self._load,
            "POST /models/unload": self._unload,
        }

    def handlers(self) -> Mapping[str, InfoHandler]:
        """Return llama.cpp's handlers, with the router's properties."""
        return {**super().handlers(), "GET /props": self._router_props}

    def model_for(self, ask: Ask) -> Model:
        """Return the requested model, which must exist."""
        if (model := self.models.find(ask.model)) is None:
            raise Refused("model_missing", model=ask.model)
        return model

    async def load_model(self, ask: Ask, model: Model, script: FaultScript) -> Instance:
        """Load the model, if necessary, in place of the loaded one."""
        self._make_room(model)
        return await super().load_model(ask, model, script)

    def model_entry(self, model: Model) -> JsonValue:
        """Return the entry of a model, with its status and the options of its process."""
        entry = super().model_entry(model)
        assert isinstance(entry, dict)
        value = "loaded" if self.models.instances_of(model) else "unloaded"
        options: JsonValue = ["llama-server", "--alias", model.name, "--parallel", str(self.engine.capacity)]
        return {**entry, "status": {"value": value, "args": options}}

    def _make_room(self, model: Model) -> None:
        if self.models.instances_of(model):
            return
        for instance in self.models.loaded():
            self.engine.abort()
            self.models.unload(instance)

    async def _load(self, exchange: Exchange) -> web.StreamResponse:
        model = self.model_for(Ask(str(parse(await exchange.request.read()).get("model", ""))))
        self._make_room(model)
        await self.engine.instance(model, exchange.script)
        return web.json_response({"success": True})

    async def _unload(self, exchange: Exchange) -> web.StreamResponse:
        model = self.model_for(Ask(str(parse(await exchange.request.read()).get("model", ""))))
        for instance in self.models.instances_of(model):
            if instance.users:
                self.engine.abort()
            self.models.unload(instance)
        return web.json_response({"success": True})

    async def _router_props(self, request: web.Request) -> web.Response:
        if "model" in request.query:
            return await self._props(request)
        props: dict[str, JsonValue] = {"role": "router", "max_instances": self.most_loaded, "build_info": "simulator"}
        return web.json_response(props)
