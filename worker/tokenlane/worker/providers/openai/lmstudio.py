"""LM Studio's server."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import JsonValue

from tokenlane.routing.contract.answers import TokenDelta
from tokenlane.routing.contract.errors import BadRequest, ContextTooLong
from tokenlane.routing.contract.requests import ChatRequest
from tokenlane.routing.contract.results import ModelInfo
from tokenlane.worker.providers.answers.model_names import same_model
from tokenlane.worker.providers.requests.options import ELSEWHERE
from tokenlane.worker.providers.requests.turns import image_urls

from .answer import OpenAiAnswerReader
from .lmstudio_models import LmStudioModels

_AT_ONCE = 4
_INSTANCE = re.compile(r":\d+")


class _Reader(OpenAiAnswerReader):
    """It may end an answer at once, with nothing said, where the prompt does not fit."""

    def last(self) -> TokenDelta:
        last = super().last()
        said = self.delivered or last.text or last.reasoning
        if not said and (last.usage is None or last.usage.completion_tokens == 0):
            raise ContextTooLong(
                "LM Studio ended the answer before its first token, as it does where a prompt does not fit the context "
                "the model was loaded with: shorten the messages, or load it with more."
            )
        return last


class LmStudioProvider(LmStudioModels):
    """An LM Studio server, 0.4 or newer. It answers 200 to any path, so only a page's content says anything."""

    default_endpoint: ClassVar[str | None] = "http://127.0.0.1:1234"
    option_names: ClassVar[Mapping[str, str]] = {"repetition_penalty": "repeat_penalty"}
    ignored: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("min_p", "logprobs", "top_logprobs", "parallel_tool_calls"), ELSEWHERE
    )
    continuing: ClassVar[Mapping[str, JsonValue] | None] = {}
    thoughts: ClassVar[Literal["reasoning", "reasoning_content"] | None] = "reasoning_content"
    reader: ClassVar[type[OpenAiAnswerReader]] = _Reader

    async def models(self) -> list[ModelInfo]:
        """The models that have been downloaded, by its own list: only that tells what each can do."""
        page = await self._page("/api/v1/models")
        try:
            return [self._listed(entry) for entry in page["models"]]
        except (KeyError, TypeError, ValueError, AttributeError):
            raise self._no_page("/api/v1/models") from None

    async def capacity(self) -> int:
        """What each of its loaded models takes at once; 4 where it does not say, its own default since 0.4."""
        page = await self._page("/api/v1/models")
        try:
            told = [
                instance["config"].get("parallel")
                for model in page["models"]
                for instance in model.get("loaded_instances") or ()
                if model["type"] == "llm"
            ]
        except (KeyError, TypeError, AttributeError):
            raise self._no_page("/api/v1/models") from None
        return min((number for number in told if isinstance(number, int) and number > 0), default=_AT_ONCE)

    async def healthy(self) -> None:
        """Return if its list is one; see `TellsHealth`. It has no page for health."""
        page = await self._page("/api/v1/models")
        if not isinstance(page, dict) or "models" not in page:
            raise self._no_page("/api/v1/models")

    def _adapted(self, request: ChatRequest) -> ChatRequest:
        if request.response_format is not None and request.response_format.get("type") == "json_object":
            raise BadRequest("LM Studio has no `response_format` of type json_object: use json_schema with a schema.")
        if any(not url.startswith("data:") for url in image_urls(request)):
            raise BadRequest("LM Studio fetches no images: send them as data:image/...;base64,... URLs.")
        return request

    def _same_model(self, said: str, asked: str) -> bool:
        # A model that is loaded twice answers as the second of its name.
        return same_model(said, asked) or (said.startswith(asked) and _INSTANCE.fullmatch(said, len(asked)) is not None)

    def _listed(self, entry: dict[str, Any]) -> ModelInfo:
        instances = entry.get("loaded_instances") or []
        can = entry.get("capabilities") or {}
        more = (("vision", "vision"), ("trained_for_tool_use", "tools"))
        chat = ("chat", "schema", "prefill", *(ours for theirs, ours in more if can.get(theirs)))
        context = instances[0]["config"].get("context_length") if instances else None
        return ModelInfo(
            name=entry["key"],
            provider=self._lane.provider,
            lane=self._lane.name,
            size_bytes=entry.get("size_bytes"),
            quantisation=(entry.get("quantization") or {}).get("name"),
            context_length=context or entry.get("max_context_length"),
            loaded=bool(instances),
            capabilities=chat if entry["type"] == "llm" else ("embed",),
        )
