"""The dialect of vLLM's OpenAI-compatible server."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import ClassVar

from aiohttp import web
from pydantic import JsonValue

from tokenlane.benches.simulator.dialects.base import InfoHandler, LoggedHandler
from tokenlane.benches.simulator.dialects.encoder import Encoder
from tokenlane.benches.simulator.dialects.openai.completions import CompletionEncoder
from tokenlane.benches.simulator.dialects.openai.dialect import OpenAiDialect
from tokenlane.benches.simulator.dialects.openai.encoder import DONE, OpenAiEncoder
from tokenlane.benches.simulator.dialects.request_fields import boolean, parse
from tokenlane.benches.simulator.exchange import Exchange
from tokenlane.benches.simulator.model.answer import Ask, ConversationTurn, SimulatedAnswer
from tokenlane.benches.simulator.model.models import Model
from tokenlane.benches.simulator.model.refusals import Reason, Refused, Wording, wording_of
from tokenlane.benches.simulator.model.text import token_ids

_PAUSED = Wording(503, "ServiceUnavailableError", "The engine is paused.")
_NO_API = Wording(501, "NotImplementedError", "The model does not support this API")
_REFUSALS: Mapping[Reason, Wording] = {
    "bad_request": Wording(400, "BadRequestError"),
    "model_missing": Wording(404, "NotFoundError", "The model `{model}` does not exist.", "model"),
    "too_long": Wording(
        400,
        "BadRequestError",
        "This model's maximum context length is {limit} tokens. However, your prompt contains at least {tokens} input "
        "tokens. Please reduce the length of the input prompt.",
        "input_tokens",
    ),
    "overloaded": Wording(503, "Service Unavailable", "The request queue is full."),
    "sleeping": _PAUSED,
    "not_loaded": _PAUSED,
    "load_failed": Wording(500, "InternalServerError"),
    "cannot_chat": _NO_API,
    "cannot_embed": _NO_API,
    "cannot_see": Wording(400, "BadRequestError", "At most 0 image(s) may be provided in one prompt."),
}


class VllmEncoder(OpenAiEncoder):
    """OpenAI's encoding with vLLM's additions: continued answers, stop reasons, and `[DONE]` after errors."""

    reasoning_field: ClassVar[str | None] = "reasoning"
    done_after_error: ClassVar[bool] = True

    def read(self, body: Mapping[str, JsonValue]) -> Ask:
        """Read the fields of a chat request, and refuse an empty list of tools."""
        if body.get("tools") == []:
            raise Refused("bad_request", "tools must not be an empty list", parameter="tools")
        return super().read(body)

    def split_prefill(
        self, turns: tuple[ConversationTurn, ...], body: Mapping[str, JsonValue]
    ) -> tuple[tuple[ConversationTurn, ...], str]:
        """Return the last message as the beginning of the answer, if `continue_final_message` is set."""
        if not boolean(body, "continue_final_message", False):
            return turns, ""
        if boolean(body, "add_generation_prompt", True):
            message = "Cannot set both `continue_final_message` and `add_generation_prompt` to True."
            raise Refused("bad_request", message)
        return turns[:-1], turns[-1].content if turns else ""

    def echoes_prefill(self, body: Mapping[str, JsonValue], prefill: str) -> bool:
        """Whether the request sets `echo`."""
        return bool(prefill) and boolean(body, "echo", False)

    def opening(self, answer: SimulatedAnswer) -> bytes:
        """Return a chunk with the role, and one with the continued beginning if `echo` is set."""
        role = super().opening(answer)
        return role + self.chunk(answer, {"content": answer.ask.prefill}) if answer.ask.echo else role

    def finish_reason(self, answer: SimulatedAnswer) -> str | None:
        """Return the finish reason, which is `stop` after a call of a required tool."""
        return "stop" if answer.finish == "tool_calls" and answer.ask.tool is not None else answer.finish

    def choice_fields(self, answer: SimulatedAnswer, finish: str | None) -> dict[str, JsonValue]:
        """Return the stop string that ended the answer, in the last chunk."""
        return {} if finish is None else {"stop_reason": answer.stopped_by}

    def error_document(self, status: int, error: JsonValue) -> JsonValue:
        """Return an error as vLLM shapes it."""
        document: JsonValue = {
            "message": "Internal server error",
            "type": "InternalServerError",
            "param": None,
            "code": status,
        }
        return {"error": document if error is None else error}

    def unloaded(self, answer: SimulatedAnswer) -> Iterator[bytes]:
        """Yield a chunk with the finish reason `abort`."""
        yield self.chunk(answer, {"content": ""}, "abort")
        yield DONE


class VllmDialect(OpenAiDialect):
    """A server with one model, which either chats or makes embeddings. Its queue has no limit."""

    encoder: ClassVar[type[OpenAiEncoder]] = VllmEncoder
    owner: ClassVar[str] = "vllm"

    def _serves(self, path: str) -> bool:
        """Whether the model can serve this path. Other paths are unknown to the server."""
        embeds = [model.embeds for model in self.models.on_disk.values()]
        if path == "/v1/embeddings":
            return any(embeds)
        return not all(embeds)

    def encoders(self) -> Mapping[str, Encoder]:
        """Return the encoders of chats and completions, unless the model makes embeddings."""
        if not self._serves("/v1/chat/completions"):
            return {}
        return {**super().encoders(), "/v1/completions": CompletionEncoder(VllmEncoder())}

    def logged_handlers(self) -> Mapping[str, LoggedHandler]:
        """Return the handlers for embeddings, if the model makes them, and for sleeping and waking up."""
        handlers: dict[str, LoggedHandler] = {"POST /sleep": self._sleep, "POST /wake_up": self._wake_up}
        return {**handlers, **super().logged_handlers()} if self._serves("/v1/embeddings") else handlers

    def handlers(self) -> Mapping[str, InfoHandler]:
        """Return the handlers of vLLM's paths and OpenAI's."""
        return {
            **super().handlers(),
            "GET /health": self._health,
            "GET /ping": self._health,
            "GET /version": self._version,
            "GET /metrics": self._metrics,
            "GET /openapi.json": self._routes,
            "GET /load": self._load,
            "GET /is_sleeping": self._is_sleeping,
            "POST /tokenize": self._tokenize,
        }

    def requires_key(self, path: str) -> bool:
        """Whether the path is under `/v1`."""
        return path.startswith("/v1")

    def vector_length(self, model: Model, wanted: int | None) -> int | None:
        """Return the requested number of dimensions, if the model supports it."""
        if wanted is not None and not model.shortens:
            message = (
                f'Model "{model.name}" does not support matryoshka representation, changing output dimensions will '
                "lead to poor results."
            )
            raise Refused("bad_request", message)
        return wanted

    def model_for(self, ask: Ask) -> Model:
        """Return the requested model, or the first model if the request names none."""
        if not ask.model:
            return next(iter(self.models.on_disk.values()))
        return super().model_for(ask)

    def scripted_error(self, status: int, error: JsonValue) -> JsonValue:
        """Return an `error` object."""
        plain: JsonValue = {"message": "simulated", "type": "simulated", "param": None, "code": status}
        return {"error": plain if error is None else error}

    def refusal(self, refused: Refused) -> web.Response:
        """Return the refusal as vLLM words it."""
        if refused.reason == "unauthorized":
            return web.json_response({"error": "Unauthorized"}, status=401)
        words = wording_of(refused, _REFUSALS)
        document: JsonValue = {
            "message": words.message,
            "type": words.kind,
            "param": words.code or refused.parameter,
            "code": words.status,
        }
        return web.json_response({"error": document}, status=words.status)

    def model_entry(self, model: Model) -> JsonValue:
        """Return the entry of a model, which includes its context length. `created` is the current time."""
        return {
            "id": model.name,
            "object": "model",
            "created": int(time.time()),
            "owned_by": self.owner,
            "root": model.name,
            "parent": None,
            "max_model_len": model.context_length,
            "permission": [],
        }

    def embeddings_fields(self) -> dict[str, JsonValue]:
        """Return the id of the list and the current time."""
        return {"id": "embd-0", "created": int(time.time())}

    async def _health(self, _: web.Request) -> web.Response:
        return web.Response()

    async def _version(self, _: web.Request) -> web.Response:
        return web.json_response({"version": "0.33.0"})

    async def _load(self, _: web.Request) -> web.Response:
        return web.json_response({"server_load": self.engine.running + self.engine.waiting})

    async def _routes(self, _: web.Request) -> web.Response:
        paths: dict[str, JsonValue] = {path: {} for path in (*self.encoders(), "/v1/models", "/health", "/version")}
        if self._serves("/v1/embeddings"):
            paths["/v1/embeddings"] = {}
        return web.json_response({"openapi": "3.1.0", "info": {"title": "FastAPI"}, "paths": paths})

    async def _is_sleeping(self, _: web.Request) -> web.Response:
        return web.json_response({"is_sleeping": self.engine.sleeping})

    async def _sleep(self, exchange: Exchange) -> web.StreamResponse:
        """Put the server to sleep, and abort running requests unless the query says otherwise."""
        query = exchange.request.query
        self.engine.sleeping = True
        if query.get("mode", "abort") == "abort":
            self.engine.abort()
        return web.json_response({"status": "sleeping", "level": int(query.get("level", "1"))})

    async def _wake_up(self, exchange: Exchange) -> web.StreamResponse:
        self.engine.sleeping = False
        return web.json_response({"status": "awake", "tags": exchange.request.query.getall("tags", [])})

    async def _tokenize(self, request: web.Request) -> web.Response:
        body = parse(await request.read())
        model = self.model_for(Ask(str(body.get("model") or "")))
        if "messages" in body:
            ask = VllmEncoder().read(body)
            text = ask.prompt
        else:
            text = str(body.get("prompt", ""))
        tokens = token_ids(text)
        return web.json_response(
            {"count": len(tokens), "max_model_len": model.context_length, "tokens": tokens, "token_strs": None}
        )

    async def _metrics(self, _: web.Request) -> web.Response:
        engine, counts = self.engine, self.engine.counts
        name = next(iter(self.models.on_disk), "")
        labels = f'{{model_name="{name}",engine="0"}}'
        figures = {
            "num_requests_running": engine.running,
            "num_requests_waiting": engine.waiting,
            "kv_cache_usage_perc": engine.running / engine.capacity,
            "prompt_tokens_total": counts.prompt_tokens,
            "generation_tokens_total": counts.tokens,
            "num_preemptions_total": 0,
            "time_to_first_token_seconds_sum": counts.first_s,
            "time_to_first_token_seconds_count": counts.answers,
            "engine_sleep_state": int(engine.sleeping),
        }
        lines = [f"vllm:{figure}{labels} {value}" for figure, value in figures.items()]
        return web.Response(text="\n".join([*lines, ""]))
