"""The provider for vLLM's OpenAI-compatible server."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import aclosing, suppress
from typing import Any, ClassVar, Literal

from pydantic import JsonValue

from tokenlane.config.settings.values import LaneSettings
from tokenlane.routing.contract.answers import TokenDelta, TokenLogprob
from tokenlane.routing.contract.errors import BadRequest, LlmError
from tokenlane.routing.contract.requests import ChatRequest
from tokenlane.routing.contract.results import ModelInfo
from tokenlane.worker.providers.answers.contents import reasoning_of
from tokenlane.worker.providers.http.gather_or_cancel import gather_or_cancel
from tokenlane.worker.providers.http.provider import MAX_ERROR_BYTES
from tokenlane.worker.providers.requests.turns import PIXEL
from tokenlane.worker.providers.residency import Residency

from .answer import OpenAiAnswerReader
from .body import prompt_of
from .host_files import HubModels
from .provider import OpenAiProvider, Prepared

LOAD_S = 900.0
_CHAT = "/v1/chat/completions"
_MODEL_AND_ADAPTERS = "the model and its adapters"
"""The one name under which `Residency` knows them, since they sleep and wake up together."""
_A_TOOL: JsonValue = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


class _VllmReader(OpenAiAnswerReader):
    """Reads the reasoning in a continued answer as text. The end of the reasoning is part of the partial answer, so
    vLLM's parser never sees it and takes the whole continuation for reasoning."""

    def _piece(self, piece: dict[str, Any], logprobs: tuple[TokenLogprob, ...] = ()) -> TokenDelta | None:
        thought = reasoning_of(piece) if self._continues else ""
        if thought:
            piece = {"content": thought + (piece.get("content") or ""), "tool_calls": piece.get("tool_calls")}
        return super()._piece(piece, logprobs)


class VllmProvider(HubModels, OpenAiProvider):
    """A vLLM server, which serves one model with its adapters and batches requests.

    A server with vLLM's sleep mode can unload its model and load it again: it sleeps with the weights in the host's
    memory, and discards its KV cache. A request wakes it up.
    """

    default_endpoint: ClassVar[str | None] = "http://127.0.0.1:8000"
    alternatives: ClassVar[Mapping[str, str]] = {
        "load": "start its server with the model, `vllm serve MODEL`; files that were pulled on its host are not "
        "downloaded again",
        "unload": "stop its server, or start it with `--enable-sleep-mode` and VLLM_SERVER_DEV_MODE=1",
    }
    health_path: ClassVar[str] = "/health"
    version_at: ClassVar[tuple[str, str] | None] = ("/version", "version")
    thoughts: ClassVar[Literal["reasoning", "reasoning_content"] | None] = "reasoning_content"
    # By default the template adds a new turn, which vLLM refuses together with continue_final_message.
    continuing: ClassVar[Mapping[str, JsonValue] | None] = {
        "continue_final_message": True,
        "add_generation_prompt": False,
        "echo": False,
    }
    echoes: ClassVar[bool] = False
    reader: ClassVar[type[OpenAiAnswerReader]] = _VllmReader

    def __init__(self, lane: LaneSettings) -> None:
        super().__init__(lane)
        self._probed: tuple[object, ...] = ()
        self._able: tuple[str, ...] = ("chat",)
        self._can: dict[str, bool] = {}
        """The abilities of the probed model that are known so far."""
        self._roots: dict[str, str | None] = {}
        """The model behind each name that the server lists."""
        self._residency = Residency(self)
        self.can_load = False
        """Whether the server has vLLM's sleep mode."""

    async def models(self) -> list[ModelInfo]:
        """The model and its adapters. The server's routes show whether it chats or embeds; short requests show whether
        it supports tools and images."""
        document = await self._request_json("/v1/models")
        models = self._infos(document)
        if await self._is_asleep():
            # Nothing else is asked, since a sleeping server refuses requests. It listed its abilities before.
            return [model.model_copy(update={"capabilities": self._able, "loaded": False}) for model in models]
        try:
            routes = await self._field("/openapi.json", "paths", dict)
            chats, embeds = _CHAT in routes, "/v1/embeddings" in routes
        except LlmError:  # the server may hide its routes
            chats, embeds = True, False
        can: tuple[str, ...] = ("chat", "schema", "prefill") if chats else ()
        if chats and models:
            can += await self._more(document["data"][0])
        if embeds:
            can += ("embed",)
        self._able = can
        return [model.model_copy(update={"capabilities": can, "loaded": True}) for model in models]

    async def capacity(self) -> int:
        """64. vLLM itself has no limit, since it batches and queues any number of requests."""
        return 64

    async def count_tokens(self, request: ChatRequest, model: str) -> int:
        """The length of the prompt; see `CountsTokens.count_tokens`."""
        return await self._field("/tokenize", "count", int, {"model": model, **prompt_of(request)})

    def chat(self, request: ChatRequest, model: str, resume: str | None = None) -> AsyncGenerator[TokenDelta, None]:
        """Stream the answer; see `LlmProvider.chat`. A sleeping server is woken up first."""
        answer = super().chat(request, model, resume)
        return self._awake(answer) if self.can_load else answer

    async def embed(self, inputs: Sequence[str], model: str, dimensions: int | None = None) -> list[list[float]]:
        """The vectors of the inputs; see `Embeds.embed`. A sleeping server is woken up first."""
        if not self.can_load:
            return await super().embed(inputs, model, dimensions)
        async with self._residency.using(_MODEL_AND_ADAPTERS):
            return await super().embed(inputs, model, dimensions)

    async def load(self, model: str) -> None:
        """Wake the server up; see `Loads.load`."""
        await self._residency.load(_MODEL_AND_ADAPTERS)

    async def unload(self, model: str) -> None:
        """Let the server sleep once no request runs; see `Loads.unload`."""
        await self._residency.unload(_MODEL_AND_ADAPTERS)

    async def in_memory(self) -> tuple[Iterable[str], int | None]:
        """See `HoldsModels`. The server's model and its adapters count as one model."""
        return () if await self._is_asleep() else (_MODEL_AND_ADAPTERS,), None

    async def load_now(self, model: str) -> None:
        """See `HoldsModels`."""
        await self._exchange("/wake_up", {}, LOAD_S, MAX_ERROR_BYTES)

    async def unload_now(self, model: str) -> None:
        """See `HoldsModels`. Level 1 keeps the weights in the host's memory."""
        await self._exchange("/sleep?level=1&mode=wait", {}, LOAD_S, MAX_ERROR_BYTES)

    async def _awake(self, answer: AsyncGenerator[TokenDelta, None]) -> AsyncGenerator[TokenDelta, None]:
        async with self._residency.using(_MODEL_AND_ADAPTERS), aclosing(answer):
            async for delta in answer:
                yield delta

    async def _is_asleep(self) -> bool:
        """Whether the server sleeps. A server without sleep mode lacks the path."""
        listing = self._residency.begin_listing()
        try:
            is_asleep = await self._field("/is_sleeping", "is_sleeping", bool)
        except LlmError as error:
            self.can_load = self.can_load and error.retryable
            is_asleep = False
        else:
            self.can_load = True
        self._residency.note(() if is_asleep else (_MODEL_AND_ADAPTERS,), listing)
        return is_asleep

    async def _more(self, base: Mapping[str, Any]) -> tuple[str, ...]:
        """The abilities that the server does not list: tools and vision. Each is tried once per model."""
        model = tuple(base.get(name) for name in ("id", "root", "max_model_len"))
        if model != self._probed:
            self._probed, self._can = model, {}
        words: JsonValue = {"type": "text", "text": "a"}
        questions = {
            "tools": {**_short(base["id"], [words]), "tools": [_A_TOOL]},
            "vision": _short(base["id"], [words, {"type": "image_url", "image_url": {"url": PIXEL}}]),
        }
        can = self._can
        unknown = [name for name in questions if name not in can]
        answers = await gather_or_cancel(*(self._accepts(_CHAT, questions[name]) for name in unknown))
        can |= {name: takes for name, takes in zip(unknown, answers, strict=True) if takes is not None}
        return tuple(name for name in questions if can.get(name))

    def _adapt_or_refuse(self, request: ChatRequest) -> ChatRequest:
        for name in sorted(request.extra or ()):
            if name.startswith("guided_"):
                raise BadRequest(
                    f"vLLM ignores `{name}` in `extra`: use response_format, or `structured_outputs` in `extra`."
                )
        return request

    async def _prepared(self, request: ChatRequest, model: str, resume: str | None) -> Prepared:
        if model not in self._roots:  # the server may have added this name since we last listed its models
            with suppress(LlmError):
                self._infos(await self._request_json("/v1/models"))
        return await super()._prepared(request, model, resume)

    def _same_model(self, named: str, asked: str) -> bool:
        # A model may be served under several names, and answers under the first.
        root = self._roots.get(asked)
        return super()._same_model(named, asked) or (root is not None and self._roots.get(named) == root)

    def _infos(self, document: Any) -> list[ModelInfo]:
        models = super()._infos(document)
        self._roots = {entry["id"]: entry.get("root") for entry in document["data"]}
        return models


def _short(model: str, content: list[JsonValue]) -> dict[str, JsonValue]:
    """A question whose answer is one token."""
    return {"model": model, "messages": [{"role": "user", "content": content}], "max_tokens": 1}
