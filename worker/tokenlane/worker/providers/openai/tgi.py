"""The provider for Hugging Face's text-generation-inference."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import JsonValue

from tokenlane.routing.contract.errors import BadRequest, ImagesNotAccepted, LlmError
from tokenlane.routing.contract.requests import ChatRequest, Message
from tokenlane.routing.contract.results import ModelInfo
from tokenlane.worker.providers.answers.reader import wrong_model
from tokenlane.worker.providers.requests.options import ELSEWHERE, stops_of
from tokenlane.worker.providers.requests.turns import PREFILL_PROBE, add_text, continue_answer, image_urls, map_turns

from .body import prompt_of, thought_and_refusal
from .host_files import HubModels
from .provider import OpenAiChatProvider, Prepared

_CHECK_AGAIN_S = 5.0
_MOST_STOPS = 4
_VISION_TAG = "image-text-to-text"


class TgiProvider(HubModels, OpenAiChatProvider):
    """A TGI server, which serves one model and batches requests. It does not embed.

    TGI ignores the model that a request names, and repeats that name in its answer. So before a request the provider
    asks for the name of the served model, at most once every `_CHECK_AGAIN_S`.
    """

    default_endpoint: ClassVar[str | None] = "http://127.0.0.1:8080"
    alternatives: ClassVar[Mapping[str, str]] = {
        "load": "start its server with --model-id MODEL; mount this host's Hugging Face cache to use what was pulled",
        "unload": "stop its server",
    }
    health_path: ClassVar[str] = "/health"
    version_at: ClassVar[tuple[str, str] | None] = ("/info", "version")
    ignored: ClassVar[Mapping[str, str]] = {
        "repetition_penalty": "use presence_penalty",
        **dict.fromkeys(("top_k", "min_p", "logit_bias", "reasoning_effort"), ELSEWHERE),
    }
    continuing: ClassVar[Mapping[str, JsonValue] | None] = {}
    echoes: ClassVar[bool] = False
    _info: dict[str, Any] | None = None
    _checked_at = 0.0

    async def models(self) -> list[ModelInfo]:
        """The server's only model, from `/info`, since the list of models does not show the context."""
        info = await self._request_json("/info")
        with self._expecting("/info"):
            can = ["chat", "schema", "tools"]
            if info.get("model_pipeline_tag") == _VISION_TAG:
                can.append("vision")
            if await self._can_continue(info["model_id"]):
                can.append("prefill")
            return [
                ModelInfo(
                    name=info["model_id"],
                    provider=self._lane.provider,
                    lane=self._lane.name,
                    digest=info.get("model_sha"),
                    context_length=info["max_total_tokens"],
                    loaded=True,
                    capabilities=tuple(can),
                )
            ]

    async def capacity(self) -> int:
        """64, half of the requests that TGI accepts by default."""
        return 64

    async def count_tokens(self, request: ChatRequest, model: str) -> int:
        """The length of the prompt; see `CountsTokens.count_tokens`."""
        return len((await self._rendered(request, model))["tokenize_response"])

    async def _prepared(self, request: ChatRequest, model: str, resume: str | None) -> Prepared:
        await self._check_model(request, model)
        if resume is not None:
            begun, _ = continue_answer(request, resume)
            # If the template alters the text, TGI would silently begin a new turn.
            if not await self._ends_with(begun, model):
                raise self._cannot_continue(" with this model's template")
        return await super()._prepared(request, model, resume)

    async def _check_model(self, request: ChatRequest, model: str) -> None:
        now = asyncio.get_running_loop().time()
        if self._info is None or now - self._checked_at > _CHECK_AGAIN_S:
            info = await self._request_json("/info")
            self._info, self._checked_at = info if isinstance(info, dict) else {}, now
        serves = self._info.get("model_id")
        if serves != model:
            raise wrong_model(str(serves))
        if self._info.get("model_pipeline_tag") != _VISION_TAG and any(image_urls(request)):
            raise ImagesNotAccepted(
                "This model does not accept images, and TGI would put their URLs into the prompt: send only text, or "
                "route this role to a model that accepts images."
            )

    async def _can_continue(self, model: str) -> bool:
        """Whether the model's template leaves a partial answer open."""
        try:
            return await self._ends_with(PREFILL_PROBE, model)
        except LlmError:
            return False

    async def _ends_with(self, begun: ChatRequest, model: str) -> bool:
        text = str(begun.messages[-1].content)
        return str((await self._rendered(begun, model))["templated_text"]).rstrip().endswith(text)

    async def _rendered(self, request: ChatRequest, model: str) -> Mapping[str, Any]:
        document = await self._request_json("/chat_tokenize", {"model": model, **prompt_of(request)})
        if not isinstance(document, dict) or not {"tokenize_response", "templated_text"} <= document.keys():
            raise self._unusable_answer("/chat_tokenize")
        return document

    def _with_known_turns(self, request: ChatRequest) -> ChatRequest:
        return map_turns(request, _turn)

    def _adapt_or_refuse(self, request: ChatRequest) -> ChatRequest:
        if len(stops_of(request)) > _MOST_STOPS:
            raise BadRequest(f"TGI accepts at most {_MOST_STOPS} stop words: send fewer.")
        match request.response_format:
            case None:
                return request
            case {"type": "text"}:
                return request.model_copy(update={"response_format": None})
            case _ if request.tools:
                raise BadRequest("TGI accepts either `tools` or `response_format`: leave one of them out.")
            case {"type": "json_schema", "json_schema": {"schema": dict(schema)}}:
                return request.model_copy(update={"response_format": {"type": "json", "value": schema}})
            case _:
                raise BadRequest("`response_format` for TGI must be of type text, or json_schema with a schema.")


def _turn(message: Message) -> Message:
    """The turn in the fields that TGI reads.

    TGI has no field for reasoning, so the reasoning goes before the text, where the model wrote it.

    Raises:
        BadRequest: the turn has both content and tool calls, which TGI would ignore.
    """
    message = thought_and_refusal(message, "reasoning")
    if not (message.reasoning or message.tool_calls):
        return message
    turn = message.model_dump(exclude_unset=True, exclude={"reasoning"})
    if message.reasoning:
        turn["content"] = add_text(message.content, before=f"<think>\n{message.reasoning}\n</think>\n\n")
    if message.tool_calls and turn.pop("content", None):
        raise BadRequest(
            "TGI accepts either text (or reasoning) or tool calls in one turn, not both: leave the text out, or route "
            "this role to another provider."
        )
    return Message.model_validate(turn)
