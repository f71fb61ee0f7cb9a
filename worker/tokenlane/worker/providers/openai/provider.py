"""The provider for any model server with OpenAI's dialect, and the base class of the more specific providers."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any, ClassVar, Literal

from pydantic import JsonValue

from tokenlane.routing.contract.answers import TokenDelta
from tokenlane.routing.contract.errors import BadRequest, ContextTooLong
from tokenlane.routing.contract.requests import ChatRequest
from tokenlane.routing.contract.results import ModelInfo
from tokenlane.worker.providers.answers.model_names import same_model
from tokenlane.worker.providers.answers.text_filters import (
    ContinuationFilter,
    StopWordFilter,
    TextFilter,
    ThinkTagFilter,
)
from tokenlane.worker.providers.answers.vectors import vectors_in
from tokenlane.worker.providers.errors.batch_errors import TooManyTexts
from tokenlane.worker.providers.http.provider import HttpProvider
from tokenlane.worker.providers.requests.options import client_side_stops, refuse_ignored
from tokenlane.worker.providers.requests.prompt_length import check_length
from tokenlane.worker.providers.requests.turns import continue_answer, map_turns

from .answer import OpenAiAnswerReader
from .body import chat_body, thought_and_refusal

Prepared = tuple[str, bytes, OpenAiAnswerReader]
"""The path and the body of a request, and the reader of its answer."""


class OpenAiChatProvider(HttpProvider):
    """A server with OpenAI's chat API. Subclasses override what differs."""

    stream_type: ClassVar[str] = "text/event-stream"
    health_path: ClassVar[str] = "/v1/models"
    option_names: ClassVar[Mapping[str, str]] = {}
    """The server's names for options, where they differ from ours."""
    ignored: ClassVar[Mapping[str, str]] = {}
    """Options that the server would ignore, with advice for each. Requests that set one are refused."""
    thoughts: ClassVar[Literal["reasoning", "reasoning_content"] | None] = None
    """The field in which the server reads a turn's reasoning; None to send reasoning and refusals as the agent did."""
    continuing: ClassVar[Mapping[str, JsonValue] | None] = None
    """Options that make the server continue a partial answer in the last message; None if it cannot continue
    answers."""
    echoes: ClassVar[bool] = True
    """Whether a continued answer may begin with a repetition of the partial answer."""
    reader: ClassVar[type[OpenAiAnswerReader]] = OpenAiAnswerReader

    async def chat(
        self, request: ChatRequest, model: str, resume: str | None = None
    ) -> AsyncGenerator[TokenDelta, None]:
        """Stream the answer; see `LlmProvider.chat`."""
        with self._naming_lane(model):
            refuse_ignored(request, self.ignored, self._lane.provider)
            request = self._adapt_or_refuse(self._with_known_turns(request))
            await check_length(self, self._lane, request, model)
            path, body, answer = await self._prepared(request, model, resume)
            async with aclosing(self._deltas(path, body, answer)) as deltas:
                async for delta in deltas:
                    yield delta

    async def models(self) -> list[ModelInfo]:
        """The models that the server lists."""
        return self._infos(await self._request_json("/v1/models"))

    def _infos(self, document: Any) -> list[ModelInfo]:
        with self._expecting("/v1/models"):
            return [self._model_info(entry) for entry in document["data"]]

    async def capacity(self) -> int:
        """4, a cautious guess, since OpenAI's dialect cannot report it."""
        return 4

    def _with_known_turns(self, request: ChatRequest) -> ChatRequest:
        """The request with its turns rewritten to the fields that this server reads.

        Raises:
            BadRequest: a turn has content that the server would ignore.
        """
        if (thoughts := self.thoughts) is None:
            return request
        return map_turns(request, lambda message: thought_and_refusal(message, thoughts))

    def _adapt_or_refuse(self, request: ChatRequest) -> ChatRequest:
        """Return the request as this server needs it. `_prepared` translates the names of options later.

        Raises:
            BadRequest: the server would ignore an option of the request.
        """
        return request

    async def _prepared(self, request: ChatRequest, model: str, resume: str | None) -> Prepared:
        """The path, body and reader for this request.

        Raises:
            LlmError: the server cannot run this request with this model.
        """
        filters: list[TextFilter] = [ThinkTagFilter()]
        more: Mapping[str, JsonValue] | None = None
        if resume is not None:
            if self.continuing is None:
                raise self._cannot_continue()
            request, begun = continue_answer(request, resume)
            if request.messages[-1].role == "assistant":  # a text of white space is no message to continue
                more = self.continuing
            filters = [ContinuationFilter(begun, echoed=self.echoes)]
        body = chat_body(request, model, self.option_names, more)
        return "/v1/chat/completions", body, self._reader(request, model, filters)

    def _reader(self, request: ChatRequest, model: str, filters: list[TextFilter]) -> OpenAiAnswerReader:
        if stops := client_side_stops(request):
            filters = [*filters, StopWordFilter(stops)]
        return self.reader(model, filters, self._same_model, logprobs=bool(request.logprobs))

    def _same_model(self, named: str, asked: str) -> bool:
        """Whether the model that an answer names is the requested model."""
        return same_model(named, asked)

    def _cannot_continue(self, why: str = "") -> BadRequest:
        return BadRequest(
            f"{self._lane.provider} does not support continuing a partial answer{why}: send the request without a "
            "partial answer."
        )

    def _model_info(self, entry: dict[str, Any]) -> ModelInfo:
        return ModelInfo(
            name=entry["id"],
            provider=self._lane.provider,
            lane=self._lane.name,
            context_length=entry.get("max_model_len"),
            # The list does not show a model's abilities. Its name is the only hint.
            capabilities=("embed",) if "embed" in entry["id"].lower() else ("chat",),
        )


class OpenAiProvider(OpenAiChatProvider):
    """Any OpenAI-compatible server, with chat and embeddings. Subclasses override what differs."""

    async def embed(self, inputs: Sequence[str], model: str, dimensions: int | None = None) -> list[list[float]]:
        """The vectors of the inputs; see `Embeds.embed`."""
        if not inputs:
            return []
        # Some servers default to base64, which LM Studio does not support.
        question: dict[str, JsonValue] = {"model": model, "input": [*inputs], "encoding_format": "float"}
        if dimensions is None:
            return await self._embedded(question, inputs, model)
        try:
            return await self._embedded({**question, "dimensions": dimensions}, inputs, model)
        except (ContextTooLong, TooManyTexts):
            raise
        except BadRequest:
            # A model with a fixed number of dimensions often refuses the option, even with that number.
            return await self._embedded(question, inputs, model)

    async def _embedded(self, question: JsonValue, inputs: Sequence[str], model: str) -> list[list[float]]:
        document = await self._ask_model("/v1/embeddings", question, model)
        with self._naming_lane(model):
            return vectors_in(document, len(inputs), model, self._same_model)
