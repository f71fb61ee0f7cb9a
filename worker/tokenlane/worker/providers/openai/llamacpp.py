"""The provider for llama.cpp's server."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any, ClassVar, Literal
from urllib.parse import quote

from pydantic import JsonValue

from tokenlane.config.settings.values import LaneSettings
from tokenlane.routing.contract.answers import TokenDelta
from tokenlane.routing.contract.errors import LlmError
from tokenlane.routing.contract.requests import ChatRequest
from tokenlane.routing.contract.results import ModelInfo
from tokenlane.worker.providers.answers.text_filters import ContinuationFilter
from tokenlane.worker.providers.requests.turns import PREFILL_PROBE, continue_answer, image_urls

from .body import options_of, prompt_of, streamed_body
from .host_files import HubModels
from .llamacpp_router import LlamaCppRouter, arguments_of, is_loaded, is_router
from .provider import OpenAiProvider, Prepared

_CHAT_ONLY = {
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "response_format",
    "reasoning_effort",
    "logprobs",
    "top_logprobs",
}
_WORDPIECE = 3
"""llama.cpp's number for the vocabulary type of BERT-like models, which embed and cannot chat."""


class LlamaCppProvider(HubModels, OpenAiProvider):
    """llama.cpp's server: `llama-server`, with one model or in router mode, or the built-in server."""

    keeps_kv: ClassVar[Literal[True]] = True

    default_endpoint: ClassVar[str | None] = "http://127.0.0.1:8080"
    kind: ClassVar[Literal["hub", "gguf"]] = "gguf"
    alternatives: ClassVar[Mapping[str, str]] = {
        "load": "start llama-server with -m FILE, the path that the pull printed, or in router mode",
        "unload": "stop its server, or start it in router mode with --models-dir",
    }
    health_path: ClassVar[str] = "/health"
    version_at: ClassVar[tuple[str, str] | None] = ("/props", "build_info")
    thoughts: ClassVar[Literal["reasoning", "reasoning_content"] | None] = "reasoning_content"
    option_names: ClassVar[Mapping[str, str]] = {"repetition_penalty": "repeat_penalty"}
    # After a stream the server closes the connection without notice, and would miss a request sent at that moment.
    keeps_alive: ClassVar[bool] = False

    def __init__(self, lane: LaneSettings) -> None:
        super().__init__(lane)
        self._probed: tuple[object, ...] = ()
        self._more: tuple[str, ...] = ()
        """The abilities of the probed model that are known only from a request."""
        self._router: LlamaCppRouter | None = None
        """The server's models, if it is in router mode."""
        self._able: dict[str, tuple[str, ...]] = {}
        """The abilities of each model that has been loaded, in router mode."""
        self._routed: dict[str, list[str]] = {}
        """The models that were loaded at the last listing, in router mode, with the options of their processes."""

    @property
    def can_load(self) -> bool:
        """Whether the server is in router mode."""
        return self._router is not None

    async def aclose(self) -> None:
        """Close all connections, and delete the KV caches that the lane keeps."""
        if self._router is not None:
            await self._router.close()
        await super().aclose()

    def chat(self, request: ChatRequest, model: str, resume: str | None = None) -> AsyncGenerator[TokenDelta, None]:
        """Stream the answer; see `LlmProvider.chat`. In router mode, the model is loaded first if necessary."""
        answer = super().chat(request, model, resume)
        return answer if self._router is None else self._while_loaded(self._router, model, answer)

    async def _while_loaded(
        self, router: LlamaCppRouter, model: str, answer: AsyncGenerator[TokenDelta, None]
    ) -> AsyncGenerator[TokenDelta, None]:
        async with router.residency.using(model), aclosing(answer):
            async for delta in answer:
                yield delta

    async def embed(self, inputs: Sequence[str], model: str, dimensions: int | None = None) -> list[list[float]]:
        """The vectors of the inputs; see `Embeds.embed`. In router mode, the model is loaded first if necessary."""
        if self._router is None:
            return await super().embed(inputs, model, dimensions)
        async with self._router.residency.using(model):
            return await super().embed(inputs, model, dimensions)

    async def load(self, model: str) -> None:
        """Load the model, in router mode; see `Loads.load`. Models that must leave for it are unloaded when idle."""
        assert self._router is not None
        with self._naming_lane(model):
            await self._router.residency.load(model)

    async def unload(self, model: str) -> None:
        """Unload the model once no request uses it, in router mode; see `Loads.unload`."""
        assert self._router is not None
        with self._naming_lane(model):
            await self._router.residency.unload(model)

    async def models(self) -> list[ModelInfo]:
        """The server's models. Without router mode there is one. `/props` shows most of its abilities; a request for a
        vector shows whether it embeds. That request is sent only once per model, since it would keep awake a server
        that sleeps when it is idle.
        """
        listing = 0 if self._router is None else self._router.residency.begin_listing()
        try:
            document = await self._request_json("/v1/models")
            models = self._infos(document)
            # A router that rescans its folder lists no model, and still runs the requests of those in memory.
            if is_router(document) or (self._router is not None and not models):
                return await self._routed_models(document, listing)
            self._router = None
            if not any(model.chats for model in models):
                return models
            props = await self._request_json("/props")
            with self._expecting("/props"):
                declared = tuple(self._capabilities(props))
                names = ("model_path", "build_info", "chat_template", "total_slots")
                server = tuple(props.get(name) for name in names)
        except LlmError:
            self._probed, self._routed = (), {}  # the server may restart with other models
            raise
        if not any(server) or server != self._probed:
            await self._probe(server)
        return [
            model.model_copy(update={"capabilities": (*model.capabilities, *declared, *self._more)})
            if model.chats
            else model
            for model in models
        ]

    async def _routed_models(self, document: dict[str, Any], listing: int) -> list[ModelInfo]:
        """The models of a server in router mode. Their abilities are known once they have been loaded, and asked for
        again whenever they may have changed: when a model was loaded anew, or with other options."""
        if self._router is None:
            self._router = LlamaCppRouter(self._lane, self._ask_router)
            listing = self._router.residency.begin_listing()
        router, models = self._router, self._infos(document)
        await router.note(document["data"], listing)
        changed, routed = [], dict[str, list[str]]()
        for entry, info in zip(document["data"], models, strict=True):
            name, loaded, kept = info.name, is_loaded(entry), router.kept.get(info.name)
            options = arguments_of(entry)
            if loaded and self._routed.get(name) != options:
                props = await self._request_json(f"/props?model={quote(name, safe='')}&autoload=false")
                with self._expecting("/props"):
                    continues = ("prefill",) if await self._can_continue(name) else ()
                    self._able[name] = ("chat", "schema", *self._capabilities(props), *continues)
            if loaded:
                routed[name] = options
            facts = {"loaded": loaded, "capabilities": self._able.get(name, ("chat", "schema"))}
            if kept is not None:
                facts |= {"kv_tokens_kept": kept.tokens, "kv_lost_because": kept.lost_because}
            changed.append(info.model_copy(update=facts))
        self._routed = routed
        return changed

    async def _ask_router(self, path: str, question: object, timeout_s: float) -> Any:
        return await self._request_json(path, question, timeout_s=timeout_s)

    async def _probe(self, server: tuple[object, ...]) -> None:
        continues = await self._can_continue("")  # a server with one model ignores the name
        embeds = await self._accepts("/v1/embeddings", {"input": "a", "encoding_format": "float"})
        self._more = tuple(name for name, can in {"prefill": continues, "embed": embeds}.items() if can)
        self._probed = () if embeds is None else server

    async def capacity(self) -> int:
        """The server's slots, from `/props`; in router mode those of each model, or 4 if the options do not say it."""
        if self._router is not None:
            return self._router.slots or 4
        slots = await self._field("/props", "total_slots", int)
        if slots < 1:
            raise self._unusable_answer("/props")
        return slots

    async def count_tokens(self, request: ChatRequest, model: str) -> int:
        """The length of the prompt; see `CountsTokens.count_tokens`."""
        rendered = await self._rendered(request, model)
        question = {"model": model, "content": rendered, "add_special": True, "parse_special": True}
        return len(await self._field("/tokenize", "tokens", list, question))

    async def _prepared(self, request: ChatRequest, model: str, resume: str | None) -> Prepared:
        """See `OpenAiChatProvider`. A partial answer is appended to the rendered prompt and continued as plain text,
        since the chat API of some versions repeats it in the answer."""
        if resume is None:
            return await super()._prepared(request, model, resume)
        if any(image_urls(request)):
            raise self._cannot_continue(" after images")
        if request.tools or request.logprobs:
            # In plain text a tool call would arrive as text, and logprobs in another format.
            raise self._cannot_continue(" with tools or logprobs")
        asked, begun = continue_answer(request, resume)
        prompt = await self._rendered(asked, model)
        if not prompt.endswith(begun.rstrip()):
            raise self._cannot_continue(" with this model's template")
        options = {
            name: value for name, value in options_of(request, self.option_names).items() if name not in _CHAT_ONLY
        }
        body = streamed_body(request, model, options, {"prompt": prompt})
        return "/v1/completions", body, self._reader(request, model, [ContinuationFilter(begun, echoed=False)])

    async def _rendered(self, request: ChatRequest, model: str) -> str:
        question = {"model": model, **prompt_of(request)}
        kwargs = (request.extra or {}).get("chat_template_kwargs")
        if kwargs:
            question["chat_template_kwargs"] = kwargs
        return await self._field("/apply-template", "prompt", str, question)

    async def _can_continue(self, model: str) -> bool:
        """Whether the model's template leaves a partial answer open."""
        try:
            return (await self._rendered(PREFILL_PROBE, model)).endswith("Once upon")
        except LlmError:
            return False

    def _adapt_or_refuse(self, request: ChatRequest) -> ChatRequest:
        changes: dict[str, object] = {}
        # The server ignores json_object without a schema.
        if request.response_format == {"type": "json_object"}:
            changes["response_format"] = {"type": "json_object", "schema": {"type": "object"}}
        # The server ignores a tool_choice that names a tool. With a single tool, "required" does the same.
        if request.required_tool is not None:
            changes["tool_choice"] = "required"
            changes["tools"] = [tool for tool in request.tools or () if _named(tool) == request.required_tool]
        # Builds before b10434 read the effort only as an argument of the template.
        if request.reasoning_effort is not None:
            extra = request.extra or {}
            given, effort = extra.get("chat_template_kwargs"), request.reasoning_effort
            kwargs = {"enable_thinking": effort != "none", "reasoning_effort": effort}
            if given is None or isinstance(given, dict):
                changes["extra"] = {**extra, "chat_template_kwargs": {**kwargs, **(given or {})}}
        return request.model_copy(update=changes) if changes else request

    def _capabilities(self, props: dict[str, Any]) -> list[str]:
        abilities = {
            "tools": (props.get("chat_template_caps") or {}).get("supports_tool_calls"),
            "vision": (props.get("modalities") or {}).get("vision"),
        }
        return [name for name, can in abilities.items() if can]

    def _model_info(self, entry: dict[str, Any]) -> ModelInfo:
        # n_ctx is the context of one slot. The server answers only once the model is loaded.
        meta = entry.get("meta") or {}
        return ModelInfo(
            name=entry["id"],
            provider=self._lane.provider,
            lane=self._lane.name,
            size_bytes=meta.get("size"),
            quantisation=meta.get("ftype"),
            context_length=meta.get("n_ctx") or meta.get("n_ctx_train"),
            loaded=True,
            capabilities=("embed",) if meta.get("vocab_type") == _WORDPIECE else ("chat", "schema"),
        )


def _named(tool: Mapping[str, JsonValue]) -> JsonValue:
    function = tool.get("function")
    return function.get("name") if isinstance(function, dict) else None


class BuiltinProvider(LlamaCppProvider):
    """The built-in model's server. Only the worker that started it knows its endpoint, so there is no default."""

    default_endpoint: ClassVar[str | None] = None
