"""The provider for LM Studio."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Mapping
from typing import Any, ClassVar, Literal

from pydantic import JsonValue

from tokenlane.routing.contract.answers import TokenDelta
from tokenlane.routing.contract.errors import BadRequest, ContextTooLong, ModelNotFound, ProviderDown, Timeout
from tokenlane.routing.contract.requests import ChatRequest
from tokenlane.routing.contract.results import ModelInfo, Progress
from tokenlane.worker.providers.answers.model_names import same_model
from tokenlane.worker.providers.requests.options import ELSEWHERE
from tokenlane.worker.providers.requests.turns import image_urls

from .answer import OpenAiAnswerReader
from .provider import OpenAiProvider

POLL_S = 0.5
STALL_S = 900.0
"""The longest time without progress. LM Studio reports no progress while it checks a large model, and may hang then."""
LOAD_S = 900.0
_MODELS = "/api/v1/models"
_DOWNLOAD = "/api/v1/models/download"
_FINISHED = ("completed", "already_downloaded")
_AT_ONCE = 4
_INSTANCE = re.compile(r":\d+")


class _LmStudioReader(OpenAiAnswerReader):
    """Treats an empty answer as ContextTooLong, since LM Studio may send one instead of an error if the prompt does not
    fit. Nothing may be left of an answer that is continued: its end counts if LM Studio counted its prompt."""

    def last(self) -> TokenDelta:
        last = super().last()
        has_content = self.delivered or last.text or last.reasoning
        is_rest = self._continues and last.usage is not None and last.usage.prompt_tokens > 0
        if not (has_content or is_rest) and (last.usage is None or last.usage.completion_tokens == 0):
            raise ContextTooLong(
                "LM Studio ended the answer before its first token, as it does if a prompt does not fit the model's "
                "context: shorten the messages, or load the model with a larger context."
            )
        return last


class LmStudioProvider(OpenAiProvider):
    """An LM Studio server, 0.4 or newer. It answers any path with status 200, so only the content of an answer counts.

    LM Studio checks its downloads, but does not report a model's hash. Its API cannot cancel a download; a second pull
    waits for the same download.
    """

    alternatives: ClassVar[Mapping[str, str]] = {
        "verify": "compare the files under ~/.lmstudio/models with their publisher's hashes",
    }
    default_endpoint: ClassVar[str | None] = "http://127.0.0.1:1234"
    option_names: ClassVar[Mapping[str, str]] = {"repetition_penalty": "repeat_penalty"}
    ignored: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("min_p", "logprobs", "top_logprobs", "parallel_tool_calls"), ELSEWHERE
    )
    continuing: ClassVar[Mapping[str, JsonValue] | None] = {}
    thoughts: ClassVar[Literal["reasoning", "reasoning_content"] | None] = "reasoning_content"
    reader: ClassVar[type[OpenAiAnswerReader]] = _LmStudioReader

    async def models(self) -> list[ModelInfo]:
        """The downloaded models, from LM Studio's native list, since only that list shows their abilities."""
        entries = await self._field(_MODELS, "models", list)
        with self._expecting(_MODELS):
            return [self._model_info(entry) for entry in entries]

    async def capacity(self) -> int:
        """The number of requests that a loaded model runs at once; 4, the default, if the server does not report it."""
        entries = await self._field(_MODELS, "models", list)
        with self._expecting(_MODELS):
            limits = [
                instance["config"].get("parallel")
                for model in entries
                for instance in model.get("loaded_instances") or ()
                if model["type"] == "llm"
            ]
        return min((number for number in limits if isinstance(number, int) and number > 0), default=_AT_ONCE)

    async def healthy(self) -> None:
        """Return if the server lists its models; see `ReportsHealth`. LM Studio has no health endpoint."""
        await self._field(_MODELS, "models", list)

    async def pull(self, model: str) -> AsyncGenerator[Progress, None]:
        """Download the model, named as in LM Studio's catalogue or by its Hugging Face URL; see `Pulls.pull`."""
        clock = asyncio.get_running_loop().time
        moved, moved_at = -1, clock()
        with self._naming_lane(model):
            job = await self._command(_DOWNLOAD, {"model": model}, model)
            while True:
                state, done = str(job.get("status", "")), int(job.get("downloaded_bytes") or 0)
                if state in _FINISHED:
                    yield Progress(step="success", done_bytes=_total(job) or done, total_bytes=_total(job))
                    return
                if state not in ("downloading", "paused") or "job_id" not in job:
                    raise ProviderDown(
                        f"LM Studio's download ended as {state[:32]!r}: see LM Studio's window for the reason.",
                        retryable=False,
                    )
                if done != moved:
                    moved, moved_at = done, clock()
                elif clock() - moved_at > STALL_S:
                    raise Timeout(
                        f"LM Studio's download made no progress for {STALL_S:g} s: restart LM Studio, and pull again.",
                        retryable=False,
                    )
                yield Progress(step=state, done_bytes=done, total_bytes=_total(job))
                await asyncio.sleep(POLL_S)
                job = {**job, **await self._command(f"{_DOWNLOAD}/status/{job['job_id']}", None, model)}

    async def load(self, model: str) -> None:
        """Load the model unless it is loaded, since LM Studio would then load a second instance; see `Loads.load`."""
        if not await self._instances(model):
            await self._command("/api/v1/models/load", {"model": model}, model, timeout_s=LOAD_S)

    async def unload(self, model: str) -> None:
        """Unload all instances of the model; see `Loads.unload`."""
        for instance in await self._instances(model):
            await self._command("/api/v1/models/unload", {"instance_id": instance}, model)

    async def _instances(self, model: str) -> list[str]:
        """The ids of the model's loaded instances."""
        entries = await self._field(_MODELS, "models", list)
        with self._expecting(_MODELS):
            for entry in entries:
                if entry["key"] == model:
                    return [str(instance["id"]) for instance in entry.get("loaded_instances") or ()]
        with self._naming_lane(model):
            raise ModelNotFound("LM Studio does not have this model: pull it first.")

    async def _command(self, path: str, question: object, model: str, *, timeout_s: float = 30.0) -> dict[str, Any]:
        """Send a command, and return the server's answer."""
        with self._naming_lane(model):
            document = await self._request_json(path, question, model=model, timeout_s=timeout_s)
            if not isinstance(document, dict):
                raise self._unusable_answer(path)
            error = document.get("error")
            if isinstance(error, dict) and error.get("type") == "model_not_found":
                raise ModelNotFound(
                    "LM Studio does not know this model: use its name in the catalogue, or its URL.",
                    detail=str(error.get("message", ""))[:2048],
                )
            if error is not None:
                raise ProviderDown(
                    "LM Studio reported an error: see the detail.",
                    retryable=False,
                    detail=str(error)[:2048],
                )
            return document

    def _adapt_or_refuse(self, request: ChatRequest) -> ChatRequest:
        if request.response_format is not None and request.response_format.get("type") == "json_object":
            raise BadRequest(
                "LM Studio does not support `response_format` of type json_object: use json_schema with a schema."
            )
        if any(not url.startswith("data:") for url in image_urls(request)):
            raise BadRequest("LM Studio does not fetch images: send them as data:image/...;base64,... URLs.")
        return request

    def _same_model(self, named: str, asked: str) -> bool:
        # The second instance of a model answers as NAME:2.
        return same_model(named, asked) or (
            named.startswith(asked) and _INSTANCE.fullmatch(named, len(asked)) is not None
        )

    def _model_info(self, entry: dict[str, Any]) -> ModelInfo:
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


def _total(job: Mapping[str, Any]) -> int | None:
    total = job.get("total_size_bytes")
    return int(total) if isinstance(total, int) else None
