"""llama.cpp's own server."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import JsonValue

from tokenlane.config.settings.values import LaneSettings
from tokenlane.routing.contract.errors import LlmError
from tokenlane.routing.contract.requests import ChatRequest
from tokenlane.routing.contract.results import ModelInfo
from tokenlane.worker.providers.answers.text_filters import Continuation
from tokenlane.worker.providers.requests.turns import BEGUN, continued, image_urls

from .body import messages_of, options_of, streamed_body
from .host_files import HubModels
from .provider import Asked, OpenAiProvider

_OF_CHAT_ALONE = {
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "response_format",
    "reasoning_effort",
    "logprobs",
    "top_logprobs",
}
_WORDPIECE = 3
"""What llama.cpp calls the vocabulary of BERT and its kin alone, which embed and cannot chat."""


class LlamaCppProvider(HubModels, OpenAiProvider):
    """llama.cpp's server, `llama-server` or the built-in one."""

    default_endpoint: ClassVar[str | None] = "http://127.0.0.1:8080"
    kind: ClassVar[Literal["hub", "gguf"]] = "gguf"
    instead: ClassVar[Mapping[str, str]] = {
        "load": "start llama-server with -m FILE, where the pull has put it",
        "unload": "stop its server",
    }
    health_path: ClassVar[str] = "/health"
    version_at: ClassVar[tuple[str, str] | None] = ("/props", "build_info")
    thoughts: ClassVar[Literal["reasoning", "reasoning_content"] | None] = "reasoning_content"
    option_names: ClassVar[Mapping[str, str]] = {"repetition_penalty": "repeat_penalty"}
    keeps_alive: ClassVar[bool] = False  # it closes after a stream without saying so, which a next request may race

    def __init__(self, lane: LaneSettings) -> None:
        super().__init__(lane)
        self._asked_of: tuple[object, ...] = ()
        self._more: tuple[str, ...] = ()
        """What was found out of that model by having the server work."""

    async def models(self) -> list[ModelInfo]:
        """The one model. What it was started for is told by its pages, and of embeddings by asking for one.

        That is asked once: a server that sleeps while nothing is to be done would never get to.
        """
        try:
            models = await super().models()
            if not any(model.chats for model in models):
                return models
            props = await self._page("/props")
            with self._expecting("/props"):
                told = tuple(self._capabilities(props))
                names = ("model_path", "build_info", "chat_template", "total_slots")
                asked_of = tuple(props.get(name) for name in names)
        except LlmError:
            self._asked_of = ()  # it may come back as another
            raise
        if not any(asked_of) or asked_of != self._asked_of:
            await self._find_out(asked_of)
        return [
            model.model_copy(update={"capabilities": (*model.capabilities, *told, *self._more)})
            if model.chats
            else model
            for model in models
        ]

    async def _find_out(self, asked_of: tuple[object, ...]) -> None:
        continues = await self._continues()
        embeds = await self._takes("/v1/embeddings", {"input": "a", "encoding_format": "float"})
        found = {"prefill": continues, "embed": embeds}
        self._more = tuple(name for name, can in found.items() if can)
        self._asked_of = () if embeds is None else asked_of

    async def capacity(self) -> int:
        """The server's slots, from `/props`."""
        slots = await self._field("/props", "total_slots", int)
        if slots < 1:
            raise self._no_page("/props")
        return slots

    async def count_tokens(self, request: ChatRequest, model: str) -> int:
        """The length of the prompt; see `CountsTokens.count_tokens`."""
        question = {"content": await self._rendered(request), "add_special": True, "parse_special": True}
        return len(await self._field("/tokenize", "tokens", list, question))

    async def _asked(self, request: ChatRequest, model: str, resume: str | None) -> Asked:
        """A begun answer is continued as bare text behind the rendered prompt: chat repeats it in some versions."""
        if resume is None:
            return await super()._asked(request, model, resume)
        if any(image_urls(request)):
            raise self._cannot_continue(" behind images")
        if request.tools or request.logprobs:
            # As bare text a call would come as text, and of logprobs that has no words.
            raise self._cannot_continue(" with tools or logprobs")
        asked, begun = continued(request, resume)
        prompt = await self._rendered(asked)
        if not prompt.endswith(begun.rstrip()):
            raise self._cannot_continue(" with this model's template")
        options = {
            name: value for name, value in options_of(request, self.option_names).items() if name not in _OF_CHAT_ALONE
        }
        body = streamed_body(request, model, options, {"prompt": prompt})
        return "/v1/completions", body, self._reader(request, model, [Continuation(begun, echoed=False)])

    async def _rendered(self, request: ChatRequest) -> str:
        question: dict[str, JsonValue] = {"messages": messages_of(request)}
        if request.tools:
            question["tools"] = [*request.tools]
        kwargs = (request.extra or {}).get("chat_template_kwargs")
        if kwargs:
            question["chat_template_kwargs"] = kwargs
        return await self._field("/apply-template", "prompt", str, question)

    async def _continues(self) -> bool:
        """Whether the model's template leaves a begun answer open."""
        try:
            return (await self._rendered(BEGUN)).endswith("Once upon")
        except LlmError:
            return False

    def _adapted(self, request: ChatRequest) -> ChatRequest:
        told: dict[str, object] = {}
        # Of a JSON object without a schema it makes nothing.
        if request.response_format == {"type": "json_object"}:
            told["response_format"] = {"type": "json_object", "schema": {"type": "object"}}
        # A choice that is no word is none to it. With one tool, to require a call is to name it.
        if request.tool is not None:
            told["tool_choice"] = "required"
            told["tools"] = [tool for tool in request.tools or () if _named(tool) == request.tool]
        # Builds before b10434 know it as a matter of the template alone.
        if request.reasoning_effort is not None:
            extra = request.extra or {}
            given, effort = extra.get("chat_template_kwargs"), request.reasoning_effort
            kwargs = {"enable_thinking": effort != "none", "reasoning_effort": effort}
            if given is None or isinstance(given, dict):
                told["extra"] = {**extra, "chat_template_kwargs": {**kwargs, **(given or {})}}
        return request.model_copy(update=told) if told else request

    def _capabilities(self, props: dict[str, Any]) -> list[str]:
        told = {
            "tools": (props.get("chat_template_caps") or {}).get("supports_tool_calls"),
            "vision": (props.get("modalities") or {}).get("vision"),
        }
        return [name for name, can in told.items() if can]

    def _model_info(self, entry: dict[str, Any]) -> ModelInfo:
        # The server names the context of one slot n_ctx, and answers only once the model is loaded.
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
    """The built-in server, whose endpoint is known to who started it alone."""

    default_endpoint: ClassVar[str | None] = None
