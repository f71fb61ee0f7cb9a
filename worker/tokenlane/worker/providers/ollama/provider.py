"""The provider for Ollama. It uses Ollama's native API, since the OpenAI-compatible API loses errors in the middle of a
stream and overrides a model's defaults."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing, suppress
from typing import Any, ClassVar

import aiohttp
from pydantic import JsonValue
from pydantic_core import from_json

from tokenlane.config.settings.values import LaneSettings
from tokenlane.routing.contract.answers import TokenDelta
from tokenlane.routing.contract.errors import (
    BadRequest,
    ContextTooLong,
    ImagesNotAccepted,
    LlmError,
    ModelNotFound,
    ProviderDown,
)
from tokenlane.routing.contract.prompt_size import estimated_tokens, most_tokens
from tokenlane.routing.contract.requests import ChatRequest
from tokenlane.routing.contract.results import ModelInfo
from tokenlane.worker.providers.answers.text_filters import (
    ContinuationFilter,
    StopWordFilter,
    TextFilter,
    ThinkTagFilter,
)
from tokenlane.worker.providers.answers.vectors import vectors_in
from tokenlane.worker.providers.errors.context_errors import context_too_long
from tokenlane.worker.providers.http.gather_or_cancel import gather_or_cancel
from tokenlane.worker.providers.requests.options import client_side_stops
from tokenlane.worker.providers.requests.prompt_length import check_length
from tokenlane.worker.providers.requests.turns import PREFILL_PROBE, continue_answer, image_urls

from .answer import OllamaAnswerReader
from .body import ollama_body
from .context import (
    LEAST_CONTEXT,
    context_in_request,
    context_in_show_answer,
    loaded_context,
    parse_version,
    refuse_if_truncated,
    refuses_long_prompts,
)
from .models import OllamaModels
from .names import full_name, same_model_name

_SHOWN_AT_ONCE = 8
_VERSION_HOLDS_S = 60.0
_RENDERS_SINCE = (0, 12, 0)
"""The first version that can show how it renders a prompt."""
_LOGPROBS_SINCE = (0, 12, 11)
_CAPABILITIES = {
    "completion": ("chat", "schema"),
    "embedding": ("embed",),
    "tools": ("tools",),
    "vision": ("vision",),
}


class OllamaProvider(OllamaModels):
    """An Ollama server."""

    default_endpoint: ClassVar[str | None] = "http://127.0.0.1:11434"
    stream_type: ClassVar[str] = "application/x-ndjson"
    health_path: ClassVar[str] = "/api/version"
    version_at: ClassVar[tuple[str, str] | None] = ("/api/version", "version")

    def __init__(self, lane: LaneSettings) -> None:
        super().__init__(lane)
        self._continuing_models: dict[str, bool] = {}
        """Whether a model can continue a partial answer, by the names of the models that were checked."""
        self._version: tuple[int, ...] | None = None
        """The server's version, as it last reported it."""
        self._asked_version_at = float("-inf")

    async def chat(
        self, request: ChatRequest, model: str, resume: str | None = None
    ) -> AsyncGenerator[TokenDelta, None]:
        """Stream the answer; see `LlmProvider.chat`."""
        sent = False
        with self._naming_lane(model):
            try:
                await check_length(self, self._lane, request, model)
                may_truncate, context = await self._may_truncate(request, model)
                body, answer = await self._prepared(request, model, resume)
                sent = True
                async with aclosing(self._deltas("/api/chat", body, answer)) as deltas:
                    async for delta in deltas:
                        if may_truncate and delta.finish_reason is not None:
                            sent = False
                            refuse_if_truncated(request, delta.usage, context, self._version)
                        yield delta
            except ContextTooLong as error:
                if sent:
                    error.message = (await self._context_error(request, model)).message
                raise

    async def embed(self, inputs: Sequence[str], model: str, dimensions: int | None = None) -> list[list[float]]:
        """The vectors of the inputs; see `Embeds.embed`. An input that is too long is refused, not truncated."""
        if not inputs:
            return []
        with self._naming_lane(model):
            question: dict[str, JsonValue] = {"model": model, "input": [*inputs], "truncate": False}
            if dimensions is not None:
                question["dimensions"] = dimensions
            document = await self._ask_model("/api/embed", question, model)
            return vectors_in(document, len(inputs), model, same_model_name)

    async def models(self) -> list[ModelInfo]:
        """The models that Ollama has pulled, including those that cannot chat."""
        tags, running = await gather_or_cancel(self._request_json("/api/tags"), self._request_json("/api/ps"))
        showing = asyncio.Semaphore(_SHOWN_AT_ONCE)
        with self._expecting("/api/tags"):
            loaded = {entry["name"]: loaded_context(running, entry["name"]) for entry in running["models"] or ()}
            await self._check_continuing(set(loaded))
            return await gather_or_cancel(*(self._model_info(entry, loaded, showing) for entry in tags["models"] or ()))

    async def capacity(self) -> int:
        """1, Ollama's default. The server does not report a higher OLLAMA_NUM_PARALLEL."""
        return 1

    async def _may_truncate(self, request: ChatRequest, model: str) -> tuple[bool, int | None]:
        """Whether the server may silently truncate this prompt, and the model's context, if known.

        Raises:
            ContextTooLong: the prompt is longer than the context.
        """
        given = context_in_request(request)
        if most_tokens(request) <= min(LEAST_CONTEXT, given or LEAST_CONTEXT):
            return False, None
        now = asyncio.get_running_loop().time()
        if now > self._asked_version_at + _VERSION_HOLDS_S:
            with suppress(LlmError):
                self._version = parse_version(await self.version())
            self._asked_version_at = now
        if refuses_long_prompts(self._version):
            return False, None
        wanted = made = loaded = None
        with suppress(LlmError, KeyError, TypeError, AttributeError):
            shown, running = await gather_or_cancel(
                self._request_json("/api/show", {"model": model}), self._request_json("/api/ps")
            )
            (wanted, made), loaded = context_in_show_answer(shown), loaded_context(running, model)
        context = min((size for size in (given or loaded or wanted, made) if size is not None), default=None)
        if context is not None and (tokens := estimated_tokens(request)) > context:
            raise context_too_long(context, tokens, known="about")
        return True, context

    async def _context_error(self, request: ChatRequest, model: str) -> ContextTooLong:
        """The error with the numbers that Ollama leaves out: the context of the loaded model, and an estimate of the
        prompt's tokens."""
        limit = None
        with suppress(LlmError, KeyError, TypeError, AttributeError):
            running = await self._request_json("/api/ps")
            limit = loaded_context(running, model)
        tokens = estimated_tokens(request)
        return context_too_long(limit, tokens if limit is None or tokens > limit else None, known="about")

    async def _prepared(self, request: ChatRequest, model: str, resume: str | None) -> tuple[bytes, OllamaAnswerReader]:
        if any(image_urls(request)) and not await self._accepts_images(model):
            raise ImagesNotAccepted(
                "This model does not accept images, and Ollama would silently ignore them: send only text, or name "
                "another model."
            )
        if request.logprobs:
            await self._check_logprobs()
        stops = [StopWordFilter(words)] if (words := client_side_stops(request)) else []
        filters: list[TextFilter] = [ThinkTagFilter(), *stops]
        if resume is not None:
            request, begun = continue_answer(request, resume)
            if request.reasoning_effort is None:  # the model has already reasoned before the partial answer
                request = request.model_copy(update={"reasoning_effort": "none"})
            if not await self._can_continue(request, model):
                raise BadRequest(
                    "This model's template, or this version of Ollama, does not support continuing a partial answer: "
                    "send the request without one."
                )
            filters = [ContinuationFilter(begun), *stops]
        return ollama_body(request, model), OllamaAnswerReader(model, filters, logprobs=bool(request.logprobs))

    async def _check_logprobs(self) -> None:
        version = parse_version(await self.version())
        if version is not None and version < _LOGPROBS_SINCE:
            raise BadRequest(
                "Ollama before 0.12.11 does not support `logprobs`: leave them out, or update Ollama on this lane."
            )

    async def _accepts_images(self, model: str) -> bool:
        """Whether the model accepts images. True if the server does not report it, since old servers refuse images
        themselves."""
        document = await self._ask_model("/api/show", {"model": model}, model)
        known = document.get("capabilities") if isinstance(document, dict) else None
        return known is None or "vision" in known

    async def _can_continue(self, request: ChatRequest, model: str) -> bool:
        """Whether the model's template leaves a partial answer open. Ollama is asked to render the prompt and not to
        answer it; a version without this option generates one token."""
        name = full_name(model)
        if name not in self._continuing_models:
            question = from_json(ollama_body(request, model))
            question |= {"stream": False, "_debug_render_only": True}
            question["options"] = {**question.get("options", {}), "num_predict": 1}
            document = await self._ask_model("/api/chat", question, model)
            shown = document.get("_debug_info") if isinstance(document, dict) else None
            rendered = shown.get("rendered_template") if isinstance(shown, dict) else None
            self._continuing_models[name] = str(rendered or "").rstrip().endswith(str(request.messages[-1].content))
        return self._continuing_models[name]

    async def _check_continuing(self, loaded: set[str]) -> None:
        """Check which of the loaded models can continue a partial answer. Checking a model that is not loaded would
        load it."""
        unknown = {name for name in loaded if full_name(name) not in self._continuing_models}
        if not unknown or (parse_version(await self.version()) or (0,)) < _RENDERS_SINCE:
            return
        for name in unknown:
            with suppress(LlmError):
                await self._can_continue(PREFILL_PROBE, name)

    def _refused(self, response: aiohttp.ClientResponse, body: bytes) -> LlmError:
        error = super()._refused(response, body)
        if response.status == 403 and not body:
            return ProviderDown(
                "Ollama refuses the endpoint's host name: use 127.0.0.1, or set OLLAMA_HOST on its host.",
                retryable=False,
            )
        if isinstance(error, ModelNotFound):
            error.message = (
                "Ollama does not have this model: pull it with `tokenlane models pull`, or name another model."
            )
        return error

    async def _model_info(
        self, entry: dict[str, Any], loaded: Mapping[str, int | None], showing: asyncio.Semaphore
    ) -> ModelInfo:
        known = entry.get("capabilities")
        if known is None:  # versions before 2026 do not list them
            async with showing:
                known = (await self._request_json("/api/show", {"model": entry["name"]})).get("capabilities")
        can = tuple(ours for theirs in known or ("completion",) for ours in _CAPABILITIES.get(theirs, ()))
        details = entry.get("details") or {}
        return ModelInfo(
            name=entry["name"],
            provider=self._lane.provider,
            lane=self._lane.name,
            digest=f"sha256:{entry['digest'].removeprefix('sha256:')}" if entry.get("digest") else None,
            size_bytes=entry.get("size"),
            quantisation=details.get("quantization_level"),
            context_length=loaded.get(entry["name"]) or details.get("context_length"),
            loaded=entry["name"] in loaded,
            capabilities=(*can, "prefill") if self._continuing_models.get(full_name(entry["name"])) else can,
        )
