"""The dialect of LM Studio: OpenAI's API for chats, and a native API for models."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import ClassVar, Literal

from aiohttp import web
from pydantic import JsonValue

from tokenlane.benches.simulator.dialects.base import InfoHandler, LoggedHandler
from tokenlane.benches.simulator.dialects.encoder import Encoder
from tokenlane.benches.simulator.dialects.openai.completions import CompletionEncoder
from tokenlane.benches.simulator.dialects.openai.dialect import OpenAiDialect
from tokenlane.benches.simulator.dialects.openai.encoder import OpenAiEncoder, event
from tokenlane.benches.simulator.dialects.request_fields import integer, parse
from tokenlane.benches.simulator.engine import Engine
from tokenlane.benches.simulator.exchange import Exchange
from tokenlane.benches.simulator.fault_script import FaultScript
from tokenlane.benches.simulator.model.answer import Ask, ConversationTurn, SimulatedAnswer
from tokenlane.benches.simulator.model.models import PULL_STEPS, Download, Instance, Model
from tokenlane.benches.simulator.model.refusals import Reason, Refused, Wording, wording_of

_TOO_LONG = (
    "Input does not fit in context length. The input has {tokens} tokens, but the context length only supports "
    "{limit} tokens."
)
_REFUSALS: Mapping[Reason, Wording] = {
    "bad_request": Wording(400, "invalid_request_error"),
    "model_missing": Wording(404, "invalid_request_error", 'Model "{model}" not found. Please download it first.'),
    "not_loaded": Wording(
        404,
        "invalid_request_error",
        "No models loaded. Please load a model in the developer page or use the `lms load` command.",
    ),
    "too_long": Wording(400, "invalid_request_error", _TOO_LONG),
    "load_failed": Wording(400, "invalid_request_error", 'Failed to load model "{model}". Error: {message}'),
    "cannot_chat": Wording(400, "invalid_request_error", 'Model "{model}" is not an llm.'),
    "cannot_embed": Wording(400, "invalid_request_error", 'Model "{model}" is not an embedding model.'),
    "cannot_see": Wording(400, "invalid_request_error", 'Model "{model}" does not support images.'),
}
_KEPT_S = 3600.0
_KEY_WANTED = (
    "An LM Studio API token is required to make requests to this server, but none was provided using the "
    "'Authorization' header."
)


class LmStudioEncoder(OpenAiEncoder):
    """OpenAI's encoding as LM Studio varies it: the role is in every chunk, and errors have events named `error`."""

    role_in_each: ClassVar[bool] = True
    reasoning_field: ClassVar[str | None] = "reasoning_content"

    def token_limit(self, body: Mapping[str, JsonValue]) -> int | None:
        """Return the limit of tokens in the answer; None for -1."""
        limit = integer(body, "max_tokens")
        return None if limit is not None and limit < 0 else limit

    def split_prefill(
        self, turns: tuple[ConversationTurn, ...], body: Mapping[str, JsonValue]
    ) -> tuple[tuple[ConversationTurn, ...], str]:
        """Return a last assistant message as the beginning of the answer."""
        if [turn.role for turn in turns[-2:]] == ["assistant", "assistant"]:
            raise Refused("bad_request", "Multi-part or consecutive assistant responses are not supported")
        return (turns[:-1], turns[-1].content) if turns and turns[-1].role == "assistant" else (turns, "")

    def read_format(self, wanted: JsonValue) -> tuple[JsonValue, bool]:
        """Return the JSON schema, and refuse formats other than `json_schema` and `text`."""
        if isinstance(wanted, dict) and wanted.get("type") not in ("json_schema", "text"):
            raise Refused("wrong_format", "'response_format.type' must be 'json_schema' or 'text'")
        return super().read_format(wanted)

    def error_bytes(self, status: int, error: JsonValue) -> Iterator[bytes]:
        """Yield an event `error`, in which the message is both in the error and next to it."""
        document: JsonValue = {"message": "simulated"} if error is None else error
        message = document.get("message") if isinstance(document, dict) else document
        yield event({"error": document, "message": message}, "error")

    def refusal_bytes(self, refused: Refused) -> Iterator[bytes] | None:
        """Return the refusal of a prompt that is too long; None for others, which have an error status."""
        if refused.reason != "too_long":
            return None
        return self.error_bytes(400, {"message": wording_of(refused, _REFUSALS).message})

    def unloaded(self, answer: SimulatedAnswer) -> Iterator[bytes]:
        """Return the error that LM Studio sends when a model is unloaded."""
        return self.error_bytes(500, {"message": "Model unloaded."})


class LmStudioDialect(OpenAiDialect):
    """A server that downloads models and loads a model on request. It may answer an unknown name with another model."""

    encoder: ClassVar[type[OpenAiEncoder]] = LmStudioEncoder
    preloads: ClassVar[bool] = False
    owner: ClassVar[str] = "organization_owner"
    floats_only: ClassVar[bool] = True

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self._jobs: dict[str, _Job] = {}

    def vector_length(self, model: Model, wanted: int | None) -> int | None:
        """Return None, since LM Studio ignores `dimensions`."""
        return None

    def encoders(self) -> Mapping[str, Encoder]:
        """Return the encoders of chats and completions."""
        return {**super().encoders(), "/v1/completions": CompletionEncoder(self.encoder())}

    def logged_handlers(self) -> Mapping[str, LoggedHandler]:
        """Return the handlers for embeddings and for downloading, loading and unloading models."""
        return {
            **super().logged_handlers(),
            "POST /api/v0/embeddings": self.embeddings,
            "POST /api/v1/models/download": self._start_download,
            "POST /api/v1/models/load": self._load,
            "POST /api/v1/models/unload": self._unload,
        }

    def handlers(self) -> Mapping[str, InfoHandler]:
        """Return the handlers with lists of models, by the native paths and OpenAI's."""
        return {
            **super().handlers(),
            "GET /lmstudio-greeting": self._greeting,
            "GET /api/v1/models": self._list_natively,
            "GET /api/v0/models": self._list_as_before,
            "GET /api/v1/models/download/status/{job}": self._download_status,
        }

    def scripted_error(self, status: int, error: JsonValue) -> JsonValue:
        """Return an `error` object."""
        plain: JsonValue = {"message": "simulated", "type": "invalid_request_error", "param": None, "code": None}
        return {"error": plain if error is None else error}

    def refusal(self, refused: Refused) -> web.Response:
        """Return the refusal as LM Studio words it, in one of its three shapes."""
        if refused.reason == "unauthorized":
            document: JsonValue = {"type": "invalid_request", "code": "invalid_api_key", "message": _KEY_WANTED}
            return web.json_response({"error": document}, status=401)
        words = wording_of(refused, _REFUSALS)
        if refused.reason == "wrong_format":
            return web.json_response({"error": words.message}, status=400)
        parameter = "model" if refused.model else refused.parameter
        known: JsonValue = {"message": words.message, "type": words.kind, "param": parameter, "code": None}
        return web.json_response({"error": known}, status=words.status)

    def unknown_path(self, request: web.Request) -> web.Response:
        """Return an error with status 200, as LM Studio does for unknown paths."""
        return web.json_response({"error": f"Unexpected endpoint or method. ({request.method} {request.path})"})

    def model_for(self, ask: Ask) -> Model:
        """Return the requested model, or for an unknown name the loaded model, if exactly one is loaded."""
        chatting = [instance for instance in self.models.loaded() if not instance.model.embeds]
        for instance in chatting:
            if ask.model == instance.id:
                return instance.model
        if (model := self.models.find(ask.model)) is not None:
            return model
        if len(chatting) == 1:
            return chatting[0].model
        raise Refused("model_missing" if chatting else "not_loaded", model=ask.model)

    async def load_model(self, ask: Ask, model: Model, script: FaultScript) -> Instance:
        """Load the model, and unload models that earlier requests loaded."""
        if present := self.models.instances_of(model):
            if script.unloaded or script.out_of_memory:
                await super().load_model(ask, model, script)
            return present[0]
        for instance in self.models.loaded():
            if instance.on_demand and not instance.model.embeds:
                self.models.unload(instance)
        instance = await super().load_model(ask, model, script)
        instance.on_demand = True
        return instance

    def after_answer(self, ask: Ask, instance: Instance) -> None:
        """Set a model that a request loaded to be unloaded after an hour."""
        if instance.on_demand:
            instance.expires_at = time.time() + _KEPT_S

    async def _greeting(self, _: web.Request) -> web.Response:
        return web.json_response({"lmstudio": True})

    async def _list_natively(self, _: web.Request) -> web.Response:
        self._advance()
        listed: list[JsonValue] = [self._described(model) for model in self.models.on_disk.values()]
        return web.json_response({"models": listed})

    def _described(self, model: Model) -> JsonValue:
        instances: list[JsonValue] = [
            {"id": instance.id, "config": {"context_length": instance.context_length, "parallel": self.engine.capacity}}
            for instance in self.models.instances_of(model)
        ]
        described: dict[str, JsonValue] = {
            "type": "embedding" if model.embeds else "llm",
            "publisher": "simulated",
            "key": model.name,
            "display_name": model.name,
            "architecture": "simulated",
            "quantization": {"name": "Q4_K_M", "bits_per_weight": 4},
            "size_bytes": model.size_bytes,
            "params_string": "1B",
            "loaded_instances": instances,
            "max_context_length": model.context_length,
            "format": "gguf",
        }
        if model.embeds:
            return described
        can: dict[str, JsonValue] = {"vision": bool(model.sees), "trained_for_tool_use": True}
        if model.thinks:
            can["reasoning"] = {"allowed_options": ["off", "on"], "default": "on"}
        return {**described, "capabilities": can}

    async def _list_as_before(self, _: web.Request) -> web.Response:
        self._advance()
        listed: list[JsonValue] = []
        for model in self.models.on_disk.values():
            kind = "embeddings" if model.embeds else "vlm" if model.sees else "llm"
            loaded = self.models.instances_of(model)
            entry: dict[str, JsonValue] = {
                "id": model.name,
                "object": "model",
                "type": kind,
                "publisher": "simulated",
                "arch": "simulated",
                "compatibility_type": "gguf",
                "quantization": "Q4_K_M",
                "state": "loaded" if loaded else "not-loaded",
                "max_context_length": model.context_length,
            }
            listed.append({**entry, "loaded_context_length": loaded[0].context_length} if loaded else entry)
        return web.json_response({"object": "list", "data": listed})

    async def _load(self, exchange: Exchange) -> web.StreamResponse:
        """Load another instance of the model."""
        body = parse(await exchange.request.read())
        name = str(body.get("model") or "")
        model = self.models.find(name)
        if model is None:
            return _native(404, "model_not_found", f'Model "{name}" not found.')
        if exchange.script.out_of_memory:
            return _native(500, "internal_error", f'Failed to load model "{name}". Error: out of memory')
        start = time.monotonic()
        context = integer(body, "context_length")
        try:
            instance = await self.models.load(model, context, another=True)
        except Refused as refused:
            return _native(500, "internal_error", f'Failed to load model "{name}". Error: {refused.message}')
        document: dict[str, JsonValue] = {
            "type": "embedding" if model.embeds else "llm",
            "instance_id": instance.id,
            "load_time_seconds": round(time.monotonic() - start, 3),
            "status": "loaded",
        }
        if body.get("echo_load_config"):
            document["load_config"] = {"context_length": instance.context_length}
        return web.json_response(document)

    async def _unload(self, exchange: Exchange) -> web.StreamResponse:
        """Unload an instance by its id, not by the model's name."""
        body = parse(await exchange.request.read())
        wanted = str(body.get("instance_id") or "")
        instance = self.models.instance(wanted)
        if instance is None:
            return _native(404, "model_not_found", f'No loaded model instance "{wanted}".')
        self.models.unload(instance)
        return web.json_response({"instance_id": wanted})

    async def _start_download(self, exchange: Exchange) -> web.StreamResponse:
        body = parse(await exchange.request.read())
        name = str(body.get("model") or "")
        self._advance()
        download = self.models.download(name)
        if download is None:
            return _native(404, "model_not_found", f'Model "{name}" not found in the catalog.')
        if download.complete:
            return web.json_response({"status": "already_downloaded"})
        running = [job for job in self._jobs.values() if job.download is download and job.status == "downloading"]
        job = running[0] if running else _Job(f"job_{len(self._jobs) + 1}", download, corrupt=exchange.script.corrupt)
        self._jobs[job.id] = job
        exchange.received.sent = 1
        return web.json_response(job.state())

    async def _download_status(self, request: web.Request) -> web.Response:
        self._advance()
        job = self._jobs.get(request.match_info["job"])
        if job is None:
            return _native(404, "job_not_found", "Download job not found.")
        return web.json_response(job.state(self.engine.pace.pull_s))

    def _advance(self) -> None:
        """Update the downloads, which continue between requests, to the current time."""
        for job in self._jobs.values():
            if job.status != "downloading":
                continue
            pull_s = self.engine.pace.pull_s
            part = (time.monotonic() - job.started) / pull_s if pull_s else 1.0
            job.download.steps = min(int(part * PULL_STEPS), PULL_STEPS)
            if job.download.complete:
                right = self.models.finish_download(job.download, corrupt=job.corrupt)
                job.status = "completed" if right else "failed"
                job.ended_at = _moment()


@dataclass
class _Job:
    id: str
    download: Download
    corrupt: bool
    status: Literal["downloading", "completed", "failed"] = "downloading"
    started: float = field(default_factory=time.monotonic)
    started_at: str = field(default_factory=lambda: _moment())
    ended_at: str | None = None

    def state(self, pull_s: float | None = None) -> dict[str, JsonValue]:
        """Return the state of the download. Without `pull_s`, the fields about its progress are missing."""
        total = self.download.model.size_bytes
        document: dict[str, JsonValue] = {
            "job_id": self.id,
            "status": self.status,
            "total_size_bytes": total,
            "started_at": self.started_at,
        }
        if pull_s is not None:
            document |= {
                "downloaded_bytes": min(sum(self.download.completed()), total),
                "bytes_per_second": int(total / pull_s) if pull_s else total,
            }
        return {**document, "completed_at": self.ended_at} if self.ended_at else document


def _native(status: int, kind: str, message: str) -> web.Response:
    """Return an error of the native API."""
    return web.json_response({"error": {"type": kind, "message": message}}, status=status)


def _moment() -> str:
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")
