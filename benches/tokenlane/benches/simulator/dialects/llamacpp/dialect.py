"""llama.cpp's `llama-server`: OpenAI's dialect for one model, with additions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

from aiohttp import web
from pydantic import JsonValue

from tokenlane.benches.simulator.dialects.base import Page
from tokenlane.benches.simulator.dialects.encoder import Encoder
from tokenlane.benches.simulator.dialects.openai.completions import CompletionEncoder
from tokenlane.benches.simulator.dialects.openai.dialect import OpenAiDialect
from tokenlane.benches.simulator.dialects.openai.encoder import OpenAiEncoder
from tokenlane.benches.simulator.dialects.request_fields import integer, parse
from tokenlane.benches.simulator.model.answer import Ask, ConversationTurn, Part, SimulatedAnswer
from tokenlane.benches.simulator.model.models import Instance, Model
from tokenlane.benches.simulator.model.refusals import Reason, Refused, Words, worded
from tokenlane.benches.simulator.model.text import VOCABULARY, token_ids

_BPE, _WORDPIECE = 2, 3
"""Its numbers for vocabularies; the second is of models that embed and cannot chat."""
_LOADING = Words(503, "unavailable_error", "Loading model")
_REFUSALS: Mapping[Reason, Words] = {
    "bad_request": Words(400, "invalid_request_error"),
    "model_missing": Words(404, "not_found_error", "model not found"),
    "too_long": Words(
        400,
        "exceed_context_size_error",
        "request ({tokens} tokens) exceeds the available context size ({limit} tokens), try increasing it",
    ),
    "unauthorized": Words(401, "authentication_error", "Invalid API Key"),
    "overloaded": _LOADING,
    "sleeping": _LOADING,
    "not_loaded": _LOADING,
    "load_failed": _LOADING,
    "cannot_embed": Words(
        501, "not_supported_error", "This server does not support embeddings. Start it with `--embeddings`"
    ),
    "cannot_chat": Words(400, "invalid_request_error", "this model does not chat"),
    "cannot_see": Words(
        500, "server_error", "image input is not supported - hint: if this is unexpected, you may need the mmproj"
    ),
}


class LlamaCppEncoder(OpenAiEncoder):
    """Continues a last assistant message, and repeats it in one chunk with the first new token."""

    fingerprint: ClassVar[str | None] = "b0-simulator"
    limit_names: ClassVar[Sequence[str]] = ("max_tokens", "n_predict", "max_completion_tokens")

    def limit(self, body: Mapping[str, JsonValue]) -> int | None:
        """-1 is no limit."""
        limit = integer(body, *self.limit_names)
        return None if limit is not None and limit < 0 else limit

    def prefilled(
        self, turns: tuple[ConversationTurn, ...], body: Mapping[str, JsonValue]
    ) -> tuple[tuple[ConversationTurn, ...], str]:
        """The last message, if it is the assistant's."""
        if [turn.role for turn in turns[-2:]] == ["assistant", "assistant"]:
            raise Refused("bad_request", "Cannot have 2 or more assistant messages at the end of the list.")
        if turns and turns[-1].role == "assistant":
            return turns[:-1], turns[-1].content
        return turns, ""

    def echoes(self, body: Mapping[str, JsonValue], prefill: str) -> bool:
        """Always."""
        return bool(prefill)

    def first(self, answer: SimulatedAnswer, part: str | Part) -> bytes:
        """The role, and the continued text with the first token."""
        if answer.ask.echo and isinstance(part, str):
            part = answer.ask.prefill + part
        return super().first(answer, part)

    def ending(self, answer: SimulatedAnswer) -> Iterator[bytes]:
        """The continued text comes even if no token follows."""
        if answer.ask.echo and not answer.parts:
            yield self.frame(answer, Part(answer.ask.prefill))
        yield from super().ending(answer)

    def failure(self, status: int, error: JsonValue) -> JsonValue:
        """The server's shape."""
        document: JsonValue = {"code": status, "message": "simulated", "type": "server_error"}
        return {"error": document if error is None else error}


class LlamaCppDialect(OpenAiDialect):
    """One model, whose name in a request is ignored."""

    encoder: ClassVar[type[OpenAiEncoder]] = LlamaCppEncoder
    owner: ClassVar[str] = "llamacpp"

    def encoders(self) -> Mapping[str, Encoder]:
        """Chat, and prompts."""
        return {**super().encoders(), "/v1/completions": CompletionEncoder(self.encoder())}

    def pages(self) -> Mapping[str, Page]:
        """The server's pages and OpenAI's."""
        return {
            **super().pages(),
            "GET /props": self._props,
            "GET /slots": self._list_slots,
            "GET /health": self._health,
            "GET /v1/health": self._health,
            "GET /metrics": self._metrics,
            "POST /tokenize": self._tokenize,
            "POST /apply-template": self._apply_template,
        }

    def guards(self, path: str) -> bool:
        """Health and models are open."""
        return path not in ("/health", "/v1/health", "/v1/models", "/models", "/")

    def chosen(self, ask: Ask) -> Model:
        """The requested model if it exists, else the first."""
        return self.models.find(ask.model) or next(iter(self.models.on_disk.values()))

    def refusal(self, refused: Refused) -> web.Response:
        """The server's words."""
        words = worded(refused, _REFUSALS)
        document: dict[str, JsonValue] = {"code": words.status, "message": words.message, "type": words.kind}
        if refused.reason == "too_long":
            document |= {"n_prompt_tokens": refused.tokens, "n_ctx": refused.limit}
        return web.json_response({"error": document}, status=words.status)

    def error(self, status: int, error: JsonValue) -> JsonValue:
        """An `error` object."""
        plain: JsonValue = {"code": status, "message": "simulated", "type": "simulated"}
        return {"error": plain if error is None else error}

    def embedder(self, name: str) -> Model:
        """Return the model, if it makes embeddings."""
        model = self.chosen(Ask(name))
        if not model.embeds:
            raise Refused("cannot_embed", model=name)
        return model

    def kept(self, model: Model, wanted: int | None) -> int | None:
        """All: `dimensions` is not read."""
        return None

    def no_route(self, request: web.Request) -> web.Response:
        """The server's words for an unknown path."""
        document: JsonValue = {"code": 404, "message": "File Not Found", "type": "not_found_error"}
        return web.json_response({"error": document}, status=404)

    def listed(self, model: Model) -> JsonValue:
        """With the file's metadata."""
        meta: JsonValue = {
            "vocab_type": _WORDPIECE if model.embeds else _BPE,
            "n_vocab": VOCABULARY,
            "n_ctx_train": model.context_length,
            "n_ctx": model.context_length,
            "n_embd": model.dimensions,
            "n_params": model.size_bytes,
            "size": model.size_bytes,
        }
        entry: dict[str, JsonValue] = {"id": model.name, "object": "model", "created": 1_760_000_000}
        return {**entry, "owned_by": self.owner, "meta": meta}

    async def _props(self, _: web.Request) -> web.Response:
        instances: list[Instance] = self.models.loaded()
        context = instances[0].context_length if instances else 0
        return web.json_response(
            {
                "default_generation_settings": {"n_ctx": context},
                "total_slots": self.engine.capacity,
                "model_path": f"/models/{instances[0].model.name}.gguf" if instances else "",
                "build_info": "simulator",
                "chat_template": "",
                "modalities": {"vision": any(instance.model.sees for instance in instances), "audio": False},
            }
        )

    async def _list_slots(self, _: web.Request) -> web.Response:
        taken = [None if slot is None else slot.index for slot in self.engine.slots]
        return web.json_response(
            [{"id": place, "is_processing": index is not None, "request": index} for place, index in enumerate(taken)]
        )

    async def _health(self, _: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def _metrics(self, _: web.Request) -> web.Response:
        engine, counts = self.engine, self.engine.counts
        figures = {
            "prompt_tokens_total": counts.prompt_tokens,
            "tokens_predicted_total": counts.tokens,
            "requests_processing": engine.running,
            "requests_deferred": engine.waiting,
        }
        lines = [f"llamacpp:{name} {value}" for name, value in figures.items()]
        return web.Response(text="\n".join([*lines, ""]))

    async def _tokenize(self, request: web.Request) -> web.Response:
        body = parse(await request.read())
        return web.json_response({"tokens": token_ids(str(body.get("content", "")))})

    async def _apply_template(self, request: web.Request) -> web.Response:
        ask = LlamaCppEncoder().read(parse(await request.read()))
        return web.json_response({"prompt": ask.prompt})
