"""The dialect of Ollama: its native API and its OpenAI-compatible API."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import ClassVar

from aiohttp import web
from pydantic import JsonValue

from tokenlane.benches.simulator.dialects.base import InfoHandler, LoggedHandler
from tokenlane.benches.simulator.dialects.encoder import Encoder
from tokenlane.benches.simulator.dialects.openai.dialect import OpenAiDialect
from tokenlane.benches.simulator.dialects.request_fields import boolean, integer, parse, seconds, texts
from tokenlane.benches.simulator.exchange import Exchange
from tokenlane.benches.simulator.fault_script import FaultScript
from tokenlane.benches.simulator.model.answer import BEGIN, Ask
from tokenlane.benches.simulator.model.models import PULL_STEPS, Instance, Model
from tokenlane.benches.simulator.model.refusals import Reason, Refused, Wording, wording_of
from tokenlane.benches.simulator.model.text import count_tokens
from tokenlane.benches.simulator.model.vectors import embedding

from .encoders import ChatEncoder, CompatibleEncoder, GenerateEncoder, moment
from .pull import EncodedPull

_KEPT_S = 300.0
_GONE = Wording(500, "", "model runner has unexpectedly stopped, this may be due to resource limitations")
_REFUSALS: Mapping[Reason, Wording] = {
    "bad_request": Wording(400, ""),
    "model_missing": Wording(404, "", "model '{model}' not found"),
    "embedder_missing": Wording(404, "", 'model "{model}" not found, try pulling it first'),
    "too_long": Wording(
        400, "", "the prompt is longer than the context length currently available ({tokens} > {limit})"
    ),
    "input_too_long": Wording(400, "", "the input length exceeds the context length"),
    "unauthorized": Wording(401, "", "unauthorized"),
    "overloaded": Wording(503, "", "server busy, please try again.  maximum pending requests exceeded"),
    "load_failed": Wording(500, ""),
    "not_loaded": _GONE,
    "sleeping": _GONE,
    "cannot_chat": Wording(400, "", '"{model}" does not support chat'),
    "cannot_embed": Wording(400, "", '"{model}" does not support embeddings'),
    "cannot_think": Wording(400, "", '"{model}" does not support thinking'),
    "cannot_see": Wording(400, "", '"{model}" does not support image input'),
}


class OllamaDialect(OpenAiDialect):
    """A server that pulls models, loads a model on request, and unloads it after some time without requests."""

    preloads: ClassVar[bool] = False
    exact_names: ClassVar[bool] = False
    most_loaded: ClassVar[int | None] = 3
    owner: ClassVar[str] = "library"

    def encoders(self) -> Mapping[str, Encoder]:
        """Return the encoders of chats, by the native paths and OpenAI's."""
        return {
            "/api/chat": ChatEncoder(),
            "/api/generate": GenerateEncoder(),
            "/v1/chat/completions": CompatibleEncoder(),
        }

    def logged_handlers(self) -> Mapping[str, LoggedHandler]:
        """Return the handlers for embeddings and for pulling, copying and deleting models."""
        return {
            **super().logged_handlers(),
            "POST /api/embed": self._embed,
            "POST /api/embeddings": self._embed_one,
            "POST /api/pull": self._pull,
            "POST /api/copy": self._copy,
            "DELETE /api/delete": self._delete,
        }

    def handlers(self) -> Mapping[str, InfoHandler]:
        """Return the handlers for the version and for lists of models."""
        return {
            **super().handlers(),
            "GET /": self._greeting,
            "GET /api/version": self._version,
            "GET /api/tags": self._tags,
            "POST /api/show": self._show,
            "GET /api/ps": self._ps,
            "HEAD /api/blobs/{digest}": self._blob,
        }

    def requires_key(self, path: str) -> bool:
        """Return True. Ollama has no keys, but a proxy in front of it may require one on every path."""
        return True

    def scripted_error(self, status: int, error: JsonValue) -> JsonValue:
        """Return an object in which the error is a plain text."""
        return {"error": "simulated" if error is None else error}

    def refusal(self, refused: Refused) -> web.Response:
        """Return the refusal as Ollama words it."""
        words = wording_of(refused, _REFUSALS)
        return web.json_response({"error": words.message}, status=words.status)

    def unknown_path(self, request: web.Request) -> web.Response:
        """Return an error in plain text."""
        return web.Response(text="404 page not found", status=404)

    def adapt_to_model(self, ask: Ask, model: Model) -> Ask:
        """Refuse a request for reasoning if the model cannot reason."""
        if ask.think and not model.thinks:
            raise Refused("cannot_think", model=model.name)
        if model.embeds and not ask.turns:  # a request without messages only loads the model
            return ask
        return super().adapt_to_model(ask, model)

    def name_in_answer(self, ask: Ask, model: Model) -> str:
        """Return the name in the request."""
        return ask.model

    async def load_model(self, ask: Ask, model: Model, script: FaultScript) -> Instance:
        """Load the model, also if it is loaded with another context length."""
        wanted = ask.context_length
        for instance in self.models.instances_of(model):
            if wanted is not None and instance.context_length != wanted:
                self.models.unload(instance)
        return await super().load_model(ask, model, script)

    def after_answer(self, ask: Ask, instance: Instance) -> None:
        """Set how long the model stays loaded, as the request says."""
        self._keep(instance, ask.keep_alive)

    def answer_without_generating(
        self, encoder: Encoder, ask: Ask, model: Model, script: FaultScript
    ) -> Awaitable[web.StreamResponse] | None:
        """Load or unload the model if there are no messages and no prompt; return the rendered prompt if requested."""
        if ask.render_only:
            return self._show_prompt(ask)
        if ask.turns or ask.prefill or not isinstance(encoder, ChatEncoder):
            return None
        return self._load_or_unload(encoder, ask, model, script)

    async def _show_prompt(self, ask: Ask) -> web.StreamResponse:
        shown: JsonValue = {"rendered_template": ask.prompt if ask.prefill else f"{ask.conversation}{BEGIN}"}
        return web.json_response({"model": ask.model, "created_at": moment(), "_debug_info": shown})

    async def _load_or_unload(
        self, encoder: ChatEncoder, ask: Ask, model: Model, script: FaultScript
    ) -> web.StreamResponse:
        if ask.keep_alive is not None and seconds(ask.keep_alive) == 0:
            for instance in self.models.instances_of(model):
                self.models.unload(instance)
            return web.json_response(encoder.load_answer(ask, "unload"))
        self._keep(await self.load_model(ask, model, script), ask.keep_alive)
        return web.json_response(encoder.load_answer(ask, "load"))

    def _keep(self, instance: Instance, keep_alive: JsonValue) -> None:
        keep_s = _KEPT_S if keep_alive is None else seconds(keep_alive)
        instance.expires_at = None if keep_s is None else time.time() + keep_s
        self.models.loaded()

    # Embeddings.

    async def _embed(self, exchange: Exchange) -> web.StreamResponse:
        body = parse(await exchange.request.read())
        given = body.get("input")
        inputs = [] if given in (None, "") else texts(given)
        if inputs is None:
            raise Refused("bad_request", "invalid input type")
        start = time.perf_counter_ns()
        model = self._embedder(body, inputs)
        instance = await self.engine.instance(model, exchange.script)
        loaded = time.perf_counter_ns()
        counts = [min(count_tokens(text), instance.context_length) for text in inputs]
        if not boolean(body, "truncate", True):
            for text in inputs:
                if (count := count_tokens(text)) > instance.context_length:
                    limit = instance.context_length
                    raise Refused("input_too_long", model=model.name, tokens=count, limit=limit)
        with self.models.using(instance):
            async with self.engine.slot(exchange.received):
                length = integer(body, "dimensions")
                vectors: list[JsonValue] = [[*embedding(model.name, text, model.dimensions, length)] for text in inputs]
        self._keep(instance, body.get("keep_alive"))
        return web.json_response(
            {
                "model": exchange.script.answers_as or body.get("model"),
                "embeddings": vectors,
                "total_duration": time.perf_counter_ns() - start,
                "load_duration": loaded - start,
                "prompt_eval_count": sum(counts),
            }
        )

    async def _embed_one(self, exchange: Exchange) -> web.StreamResponse:
        """Answer the older path, which embeds a single text."""
        body = parse(await exchange.request.read())
        text = str(body.get("prompt") or "")
        model = self._embedder(body, [text])
        instance = await self.engine.instance(model, exchange.script)
        with self.models.using(instance):
            async with self.engine.slot(exchange.received):
                vector: list[JsonValue] = [*embedding(model.name, text, model.dimensions)] if text else []
        self._keep(instance, body.get("keep_alive"))
        return web.json_response({"embedding": vector})

    def _embedder(self, body: Mapping[str, JsonValue], inputs: Sequence[str]) -> Model:
        name = str(body.get("model") or "")
        if not name:
            raise Refused("bad_request", "model is required")
        model = self.models.find(name)
        if model is None:
            raise Refused("embedder_missing", model=name)
        if inputs and not model.embeds:
            raise Refused("cannot_embed", model=name)
        return model

    # Models.

    async def _greeting(self, _: web.Request) -> web.Response:
        return web.Response(text="Ollama is running")

    async def _version(self, _: web.Request) -> web.Response:
        return web.json_response({"version": "0.33.0"})

    async def _tags(self, _: web.Request) -> web.Response:
        listed: list[JsonValue] = [
            {**_listed(model), "modified_at": moment(), "capabilities": _capabilities(model)}
            for model in self.models.on_disk.values()
        ]
        return web.json_response({"models": listed})

    async def _ps(self, _: web.Request) -> web.Response:
        running: list[JsonValue] = [
            {
                **_listed(instance.model),
                "size_vram": instance.model.size_bytes,
                "context_length": instance.context_length,
                "expires_at": _expiry(instance),
            }
            for instance in self.models.loaded()
        ]
        return web.json_response({"models": running})

    async def _show(self, request: web.Request) -> web.Response:
        body = parse(await request.read())
        name = str(body.get("model") or body.get("name") or "")
        model = self._known(name)
        info: JsonValue = {
            "general.architecture": "simulated",
            "general.parameter_count": 1_000_000_000,
            "simulated.context_length": model.context_length,
            "simulated.embedding_length": model.dimensions,
        }
        return web.json_response(
            {
                "modelfile": f"FROM {model.name}",
                "parameters": "",
                "template": "{{ .Prompt }}",
                "details": _details(model),
                "model_info": info,
                "capabilities": _capabilities(model),
                "modified_at": moment(),
            }
        )

    async def _blob(self, request: web.Request) -> web.Response:
        wanted = request.match_info["digest"].removeprefix("sha256:")
        in_use = {digest for model in self.models.on_disk.values() for digest, _ in model.layers}
        return web.Response(status=200 if wanted in in_use else 404)

    async def _pull(self, exchange: Exchange) -> web.StreamResponse:
        body = parse(await exchange.request.read())
        name = str(body.get("model") or body.get("name") or "")
        if not name:
            raise Refused("bad_request", "model is required")
        stream = boolean(body, "stream", True)
        encoded = EncodedPull(self.models, name, exchange.script)
        exchange.received.parts = encoded.lines
        response = await exchange.perform(encoded, 0, self.engine.pace.pull_s / PULL_STEPS, stream=stream)
        if encoded.failed is None:
            return response
        exchange.received.end("failed")
        return response if stream else web.json_response({"error": encoded.failed}, status=500)

    async def _copy(self, exchange: Exchange) -> web.StreamResponse:
        body = parse(await exchange.request.read())
        model = self._known(str(body.get("source") or ""))
        name = str(body.get("destination") or "")
        if not name:
            raise Refused("bad_request", "destination is required")
        self.models.on_disk[name] = replace(model, name=name)
        return web.Response()

    async def _delete(self, exchange: Exchange) -> web.StreamResponse:
        body = parse(await exchange.request.read())
        self.models.delete(self._known(str(body.get("model") or body.get("name") or "")))
        return web.Response()

    def _known(self, name: str) -> Model:
        model = self.models.find(name)
        if model is None:
            raise Refused("model_missing", model=name)
        return model


def _capabilities(model: Model) -> list[JsonValue]:
    if model.embeds:
        return ["embedding"]
    more = (("vision", model.sees), ("thinking", model.thinks))
    return ["completion", "tools", *(name for name, can in more if can)]


def _listed(model: Model) -> dict[str, JsonValue]:
    return {
        "name": model.name,
        "model": model.name,
        "size": model.size_bytes,
        "digest": model.digest,
        "details": _details(model),
    }


def _details(model: Model) -> dict[str, JsonValue]:
    return {
        "format": "gguf",
        "family": "simulated",
        "families": ["simulated"],
        "parameter_size": "1B",
        "quantization_level": "Q4_K_M",
        "context_length": model.context_length,
        "embedding_length": model.dimensions,
    }


def _expiry(instance: Instance) -> str:
    """Return when an instance expires. An instance that stays expires in three centuries."""
    if instance.expires_at is None:
        return "2318-01-01T00:00:00Z"
    return datetime.fromtimestamp(instance.expires_at, UTC).isoformat().replace("+00:00", "Z")
