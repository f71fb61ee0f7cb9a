"""The dialect of Text Generation Inference: OpenAI's API and the native `/generate` paths."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

from aiohttp import web
from pydantic import JsonValue

from tokenlane.benches.simulator.dialects.base import InfoHandler, LoggedHandler
from tokenlane.benches.simulator.dialects.encoder import Encoder
from tokenlane.benches.simulator.dialects.openai.completions import CompletionEncoder
from tokenlane.benches.simulator.dialects.openai.dialect import OpenAiDialect
from tokenlane.benches.simulator.dialects.openai.encoder import OpenAiEncoder, event
from tokenlane.benches.simulator.dialects.request_fields import boolean, integer, parse, stops
from tokenlane.benches.simulator.model.answer import Ask, ConversationTurn, Part, SimulatedAnswer
from tokenlane.benches.simulator.model.models import Model
from tokenlane.benches.simulator.model.refusals import Reason, Refused, Wording, wording_of
from tokenlane.benches.simulator.model.text import split_tokens, token_ids

_MOST_AT_ONCE = 128
_REFUSALS: Mapping[Reason, Wording] = {
    "bad_request": Wording(422, "validation", "Input validation error: {message}"),
    "wrong_format": Wording(422, "tool_error", "Tool error: {message}"),
    "too_long": Wording(
        422,
        "validation",
        "Input validation error: `inputs` tokens + `max_new_tokens` must be <= {limit}. Given: {tokens} `inputs`",
    ),
    "overloaded": Wording(429, "overloaded", "Model is overloaded"),
    "load_failed": Wording(424, "generation", "Request failed during generation: Server error: CUDA out of memory."),
    "not_loaded": Wording(424, "generation", "Request failed during generation: Server error: transport error"),
    "cannot_see": Wording(422, "validation", "Input validation error: this model does not take images"),
}
_GUARDED = {"/", "/generate", "/generate_stream", "/v1/chat/completions", "/v1/completions", "/tokenize"}


class TgiEncoder(OpenAiEncoder):
    """OpenAI's encoding as TGI varies it: the role is in every chunk, ids are empty, and a format has its own shape."""

    role_in_each: ClassVar[bool] = True
    reasoning_field: ClassVar[str | None] = None
    done_after_error: ClassVar[bool] = True
    limit_names: ClassVar[Sequence[str]] = ("max_tokens", "max_completion_tokens")
    most_stops: ClassVar[int | None] = 4
    fingerprint: ClassVar[str | None] = "3.3.7-simulator"

    def read(self, body: Mapping[str, JsonValue]) -> Ask:
        """Read the fields of a chat request, and refuse a format together with tools."""
        if body.get("response_format") is not None and body.get("tools"):
            raise Refused("wrong_format", "Grammar and tools are mutually exclusive")
        return replace(super().read(body), keeps_stop=True)

    def split_prefill(
        self, turns: tuple[ConversationTurn, ...], body: Mapping[str, JsonValue]
    ) -> tuple[tuple[ConversationTurn, ...], str]:
        """Return a last assistant message, without trailing blanks, as the beginning of the answer."""
        if turns and turns[-1].role == "assistant":
            return turns[:-1], turns[-1].content.rstrip()
        return turns, ""

    def read_format(self, wanted: JsonValue) -> tuple[JsonValue, bool]:
        """Return the JSON schema in `value`, and whether the answer must be JSON."""
        match wanted:
            case None:
                return None, False
            case {"type": "json" | "json_object", "value": schema}:
                return schema, True
            case {"type": "json_schema", "value": {"schema": schema}}:
                return schema, True
        raise Refused("misshapen", "response_format: data did not match any variant")

    def frame(self, answer: SimulatedAnswer, part: Part) -> bytes:
        """Return a chunk; empty for every tool call after the first, which TGI does not send."""
        return b"" if part.call is not None and part.call.index else super().frame(answer, part)

    def finish_reason(self, answer: SimulatedAnswer) -> str | None:
        """Return the finish reason: `stop` after a tool call, and `stop_sequence` after a stop string."""
        if answer.stopped_by is not None and answer.finish == "stop":
            return "stop_sequence"
        return "stop" if answer.finish == "tool_calls" else answer.finish

    def answer_id(self, answer: SimulatedAnswer) -> str:
        """Return an empty id."""
        return ""

    def envelope(self, answer: SimulatedAnswer) -> dict[str, JsonValue]:
        """Return the fields of every chunk, including `usage`, which is null until the last chunk."""
        return {**super().envelope(answer), "usage": None}

    def headers(self, answer: SimulatedAnswer) -> dict[str, str]:
        """Return the headers with TGI's measurements."""
        return {
            "x-queue-time": str(int(answer.queued_s * 1000)),
            "x-prompt-tokens": str(answer.prompt_tokens),
            "x-generated-tokens": str(answer.tokens),
        }

    def error_document(self, status: int, error: JsonValue) -> JsonValue:
        """Return the data of an error event, whose status is always 422."""
        document: JsonValue = {"message": "Request failed during generation: simulated", "http_status_code": 422}
        return {"error": document if error is None else error}

    def refusal_bytes(self, refused: Refused) -> Iterator[bytes] | None:
        """Return a refusal in the stream; None for errors in tools and JSON, and for a missing key."""
        if refused.reason in ("wrong_format", "misshapen", "unauthorized"):
            return None
        message = wording_of(refused, _REFUSALS).message
        return self.error_bytes(422, {"message": message, "http_status_code": 422})

    def unloaded(self, answer: SimulatedAnswer) -> Iterator[bytes]:
        """Return the error that TGI sends when the process with the model dies."""
        message = "Request failed during generation: Server error: transport error"
        return self.error_bytes(422, {"message": message, "http_status_code": 422})


class GenerateEncoder(Encoder):
    """The encoding of `/generate` and `/generate_stream`, which have a prompt and no `[DONE]`."""

    stream_type: ClassVar[str] = "text/event-stream"
    ping: ClassVar[bytes] = b":\n\n"
    malformed: ClassVar[bytes] = b'data: {"token": \n\n'
    huge_start: ClassVar[bytes] = b"data: "

    def __init__(self, *, stream: bool) -> None:
        self._stream = stream

    def read(self, body: Mapping[str, JsonValue]) -> Ask:
        """Read the prompt and its parameters."""
        inputs = body.get("inputs")
        if not isinstance(inputs, str):
            raise Refused("misshapen", "missing field `inputs`")
        given = body.get("parameters")
        parameters = given if isinstance(given, dict) else {}
        return Ask(
            model="tgi",
            turns=(ConversationTurn("user", inputs),),
            max_tokens=integer(parameters, "max_new_tokens"),
            stop=stops(parameters.get("stop"), 4),
            seed=integer(parameters, "seed"),
            keeps_stop=True,
            stream=self._stream,
            usage=boolean(parameters, "details", False),
        )

    def frame(self, answer: SimulatedAnswer, part: Part) -> bytes:
        """Return an event with one token."""
        return event({"index": 1, "token": _token(part.text), "generated_text": None, "details": None})

    def ending(self, answer: SimulatedAnswer) -> Iterator[bytes]:
        """Yield an event with the whole text, if the answer has a finish reason."""
        if answer.finish is not None:
            token: JsonValue = {**_token("</s>"), "special": True}
            yield event(
                {
                    "index": answer.tokens + 1,
                    "token": token,
                    "generated_text": answer.text,
                    "details": self._details(answer),
                }
            )

    def unstreamed_body(self, answer: SimulatedAnswer) -> JsonValue:
        """Return the whole text as one object."""
        details = self._details(answer)
        return {"generated_text": answer.text, **({"details": details} if details else {})}

    def error_bytes(self, status: int, error: JsonValue) -> Iterator[bytes]:
        """Yield an event with the error."""
        message: JsonValue = "Request failed during generation: simulated" if error is None else error
        yield event({"error": message, "error_type": "generation"})

    def refusal_bytes(self, refused: Refused) -> Iterator[bytes] | None:
        """Return a refusal in the stream; None for errors in JSON and for a missing key."""
        if refused.reason in ("misshapen", "unauthorized"):
            return None
        words = wording_of(refused, _REFUSALS)
        return iter((event({"error": words.message, "error_type": words.kind}),))

    def _details(self, answer: SimulatedAnswer) -> JsonValue:
        if not answer.ask.usage:
            return None
        reasons = {"length": "length", "stop": "stop_sequence" if answer.stopped_by else "eos_token"}
        return {
            "finish_reason": reasons.get(answer.finish or "", answer.finish),
            "generated_tokens": answer.tokens,
            "seed": answer.ask.seed,
            "input_length": answer.prompt_tokens,
        }


class TgiDialect(OpenAiDialect):
    """A server with one model. It ignores the name in a request, and repeats it in the answer."""

    encoder: ClassVar[type[OpenAiEncoder]] = TgiEncoder

    def encoders(self) -> Mapping[str, Encoder]:
        """Return the encoders of OpenAI's paths and the native paths."""
        return {
            "/v1/chat/completions": TgiEncoder(),
            "/v1/completions": CompletionEncoder(TgiEncoder()),
            "/generate": GenerateEncoder(stream=False),
            "/generate_stream": GenerateEncoder(stream=True),
        }

    def logged_handlers(self) -> Mapping[str, LoggedHandler]:
        """Return no handlers, since TGI makes no embeddings."""
        return {}

    def handlers(self) -> Mapping[str, InfoHandler]:
        """Return the handlers of TGI's paths and OpenAI's."""
        return {
            **super().handlers(),
            "GET /": self._health,
            "GET /health": self._health,
            "GET /ping": self._health,
            "GET /info": self._info,
            "GET /metrics": self._metrics,
            "POST /tokenize": self._tokenize,
            "POST /chat_tokenize": self._chat_tokenize,
        }

    def requires_key(self, path: str) -> bool:
        """Whether the path generates text or splits it into tokens."""
        return path in _GUARDED

    def scripted_error(self, status: int, error: JsonValue) -> JsonValue:
        """Return an object with the error as text and a type."""
        return {"error": "simulated" if error is None else error, "error_type": "simulated"}

    def refusal(self, refused: Refused) -> web.Response:
        """Return the refusal as TGI words it, in plain text if the body is not a valid request."""
        if refused.reason == "unauthorized":
            return web.Response(status=401)
        if refused.reason == "misshapen":
            text = f"Failed to deserialize the JSON body into the target type: {refused.message}"
            return web.Response(text=text, status=422)
        words = wording_of(refused, _REFUSALS)
        return web.json_response({"error": words.message, "error_type": words.kind}, status=words.status)

    def parse_body(self, body: bytes) -> dict[str, JsonValue]:
        """Parse the body of a request, and refuse invalid JSON in plain text with status 400."""
        try:
            return parse(body)
        except Refused as refused:
            text = f"Failed to parse the request body as JSON: {refused.message}"
            raise web.HTTPBadRequest(text=text) from None

    def unknown_path(self, request: web.Request) -> web.Response:
        """Return an empty response with status 404."""
        return web.Response(status=404)

    def model_for(self, ask: Ask) -> Model:
        """Return the only model, and refuse the request if the server has 128 requests."""
        if self.engine.running + self.engine.waiting >= _MOST_AT_ONCE:
            self.engine.counts.refused += 1
            raise Refused("overloaded")
        return self._model()

    def _model(self) -> Model:
        return next(iter(self.models.on_disk.values()))

    def name_in_answer(self, ask: Ask, model: Model) -> str:
        """Return the name in the request, or the name of the model if the request has none."""
        return ask.model or model.name

    def model_entry(self, model: Model) -> JsonValue:
        """Return the entry of a model, in which `created` is 0."""
        return {"id": model.name, "object": "model", "created": 0, "owned_by": model.name}

    async def _health(self, _: web.Request) -> web.Response:
        return web.Response()

    async def _info(self, _: web.Request) -> web.Response:
        model = self._model()
        return web.json_response(
            {
                "model_id": model.name,
                "model_sha": model.digest[:40],
                "model_pipeline_tag": "text-generation",
                "max_concurrent_requests": _MOST_AT_ONCE,
                "max_best_of": 2,
                "max_stop_sequences": 4,
                "max_input_tokens": model.context_length - 1,
                "max_total_tokens": model.context_length,
                "validation_workers": 2,
                "max_client_batch_size": 4,
                "router": "text-generation-router",
                "version": "3.3.7",
                "sha": None,
                "docker_label": None,
            }
        )

    async def _metrics(self, _: web.Request) -> web.Response:
        engine, counts = self.engine, self.engine.counts
        figures = {
            "tgi_queue_size": engine.waiting,
            "tgi_batch_current_size": engine.running,
            "tgi_request_count": counts.answers + counts.refused,
            "tgi_request_success": counts.answers,
            'tgi_request_failure{err="dropped"}': counts.dropped,
            'tgi_request_failure{err="overloaded"}': counts.refused,
            "tgi_request_generated_tokens_sum": counts.tokens,
            "tgi_request_input_length_sum": counts.prompt_tokens,
        }
        lines = [f"{name} {value}" for name, value in figures.items()]
        return web.Response(text="\n".join([*lines, ""]))

    async def _tokenize(self, request: web.Request) -> web.Response:
        body = self.parse_body(await request.read())
        return web.json_response(_tokens(str(body.get("inputs") or "")))

    async def _chat_tokenize(self, request: web.Request) -> web.Response:
        ask = TgiEncoder().read(self.parse_body(await request.read()))
        text = ask.prompt
        return web.json_response({"tokenize_response": _tokens(text), "templated_text": text})


def _token(text: str) -> dict[str, JsonValue]:
    return {"id": sum(token_ids(text)), "text": text, "logprob": -0.5, "special": False}


def _tokens(text: str) -> list[JsonValue]:
    """Return the tokens of a text and their positions."""
    entries: list[JsonValue] = []
    place = 0
    for piece in split_tokens(text):
        entries.append({"id": token_ids(piece)[0], "text": piece, "start": place, "stop": place + len(piece)})
        place += len(piece)
    return entries
