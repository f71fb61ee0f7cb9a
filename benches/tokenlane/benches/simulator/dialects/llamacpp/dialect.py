"""The dialect of llama.cpp's `llama-server`: OpenAI's API for one model, and native paths."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

from aiohttp import web
from pydantic import JsonValue

from tokenlane.benches.simulator.dialects.base import InfoHandler
from tokenlane.benches.simulator.dialects.encoder import Encoder
from tokenlane.benches.simulator.dialects.openai.completions import CompletionEncoder
from tokenlane.benches.simulator.dialects.openai.dialect import OpenAiDialect
from tokenlane.benches.simulator.dialects.openai.encoder import OpenAiEncoder
from tokenlane.benches.simulator.dialects.request_fields import integer, parse
from tokenlane.benches.simulator.model.answer import Ask, ConversationTurn, Part, SimulatedAnswer
from tokenlane.benches.simulator.model.models import Instance, Model
from tokenlane.benches.simulator.model.refusals import Reason, Refused, Wording, wording_of
from tokenlane.benches.simulator.model.text import VOCABULARY, token_ids

_BPE, _WORDPIECE = 2, 3
"""The numbers that llama.cpp has for kinds of vocabularies. Models that only make embeddings have the second kind."""
_LOADING = Wording(503, "unavailable_error", "Loading model")
_REFUSALS: Mapping[Reason, Wording] = {
    "bad_request": Wording(400, "invalid_request_error"),
    "model_missing": Wording(404, "not_found_error", "model not found"),
    "too_long": Wording(
        400,
        "exceed_context_size_error",
        "request ({tokens} tokens) exceeds the available context size ({limit} tokens), try increasing it",
    ),
    "unauthorized": Wording(401, "authentication_error", "Invalid API Key"),
    "overloaded": _LOADING,
    "sleeping": _LOADING,
    "not_loaded": _LOADING,
    "load_failed": _LOADING,
    "cannot_embed": Wording(
        501, "not_supported_error", "This server does not support embeddings. Start it with `--embeddings`"
    ),
    "cannot_chat": Wording(400, "invalid_request_error", "this model does not chat"),
    "cannot_see": Wording(
        500, "server_error", "image input is not supported - hint: if this is unexpected, you may need the mmproj"
    ),
}


class LlamaCppEncoder(OpenAiEncoder):
    """OpenAI's encoding with continued answers: a chunk repeats the beginning together with the first new token."""

    fingerprint: ClassVar[str | None] = "b0-simulator"
    limit_names: ClassVar[Sequence[str]] = ("max_tokens", "n_predict", "max_completion_tokens")

    def token_limit(self, body: Mapping[str, JsonValue]) -> int | None:
        """Return the limit of tokens in the answer; None for -1."""
        limit = integer(body, *self.limit_names)
        return None if limit is not None and limit < 0 else limit

    def split_prefill(
        self, turns: tuple[ConversationTurn, ...], body: Mapping[str, JsonValue]
    ) -> tuple[tuple[ConversationTurn, ...], str]:
        """Return a last assistant message as the beginning of the answer."""
        if [turn.role for turn in turns[-2:]] == ["assistant", "assistant"]:
            raise Refused("bad_request", "Cannot have 2 or more assistant messages at the end of the list.")
        if turns and turns[-1].role == "assistant":
            return turns[:-1], turns[-1].content
        return turns, ""

    def echoes_prefill(self, body: Mapping[str, JsonValue], prefill: str) -> bool:
        """Return True if the answer continues a beginning: llama.cpp always repeats it."""
        return bool(prefill)

    def first_piece(self, answer: SimulatedAnswer, part: str | Part) -> bytes:
        """Return a chunk with the role, and one with the continued beginning and the first token."""
        if answer.ask.echo and isinstance(part, str):
            part = answer.ask.prefill + part
        return super().first_piece(answer, part)

    def ending(self, answer: SimulatedAnswer) -> Iterator[bytes]:
        """Yield the ending, and before it the continued beginning if no token follows it."""
        if answer.ask.echo and not answer.parts:
            yield self.frame(answer, Part(answer.ask.prefill))
        yield from super().ending(answer)

    def error_document(self, status: int, error: JsonValue) -> JsonValue:
        """Return an error as llama.cpp shapes it."""
        document: JsonValue = {"code": status, "message": "simulated", "type": "server_error"}
        return {"error": document if error is None else error}


class LlamaCppDialect(OpenAiDialect):
    """A server with one model. It ignores the name in a request."""

    encoder: ClassVar[type[OpenAiEncoder]] = LlamaCppEncoder
    owner: ClassVar[str] = "llamacpp"

    def encoders(self) -> Mapping[str, Encoder]:
        """Return the encoders of chats and completions."""
        return {**super().encoders(), "/v1/completions": CompletionEncoder(self.encoder())}

    def handlers(self) -> Mapping[str, InfoHandler]:
        """Return the handlers of llama.cpp's paths and OpenAI's."""
        return {
            **super().handlers(),
            "GET /props": self._props,
            "GET /slots": self._list_slots,
            "GET /health": self._health,
            "GET /v1/health": self._health,
            "GET /metrics": self._metrics,
            "POST /tokenize": self._tokenize,
            "POST /apply-template": self._apply_template,
        }

    def requires_key(self, path: str) -> bool:
        """Whether the path is neither a health check nor a list of models."""
        return path not in ("/health", "/v1/health", "/v1/models", "/models", "/")

    def model_for(self, ask: Ask) -> Model:
        """Return the requested model if it exists, else the first model."""
        return self.models.find(ask.model) or next(iter(self.models.on_disk.values()))

    def refusal(self, refused: Refused) -> web.Response:
        """Return the refusal as llama.cpp words it."""
        words = wording_of(refused, _REFUSALS)
        document: dict[str, JsonValue] = {"code": words.status, "message": words.message, "type": words.kind}
        if refused.reason == "too_long":
            document |= {"n_prompt_tokens": refused.tokens, "n_ctx": refused.limit}
        return web.json_response({"error": document}, status=words.status)

    def scripted_error(self, status: int, error: JsonValue) -> JsonValue:
        """Return an `error` object."""
        plain: JsonValue = {"code": status, "message": "simulated", "type": "simulated"}
        return {"error": plain if error is None else error}

    def embedding_model_for(self, name: str) -> Model:
        """Return the model, and refuse the request if it makes no embeddings."""
        model = self.model_for(Ask(name))
        if not model.embeds:
            raise Refused("cannot_embed", model=name)
        return model

    def vector_length(self, model: Model, wanted: int | None) -> int | None:
        """Return None, since llama.cpp ignores `dimensions`."""
        return None

    def unknown_path(self, request: web.Request) -> web.Response:
        """Return llama.cpp's error for an unknown path."""
        document: JsonValue = {"code": 404, "message": "File Not Found", "type": "not_found_error"}
        return web.json_response({"error": document}, status=404)

    def model_entry(self, model: Model) -> JsonValue:
        """Return the entry of a model, which includes metadata of its file."""
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
