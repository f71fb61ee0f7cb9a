"""The provider for any server with OpenAI's dialect, and the base of the others."""

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
from tokenlane.worker.providers.answers.text_filters import Continuation, StopWords, TextFilter, Thinking
from tokenlane.worker.providers.answers.vectors import vectors_in
from tokenlane.worker.providers.errors.batch_errors import TooManyTexts
from tokenlane.worker.providers.http.provider import HttpProvider
from tokenlane.worker.providers.requests.options import cut_stops_of, refuse_ignored
from tokenlane.worker.providers.requests.prompt_length import check_length
from tokenlane.worker.providers.requests.turns import continued, with_turns

from .answer import OpenAiAnswerReader
from .body import chat_body, thought_and_refusal

Prepared = tuple[str, bytes, OpenAiAnswerReader]
"""Where a request goes, what is sent there, and who reads the answer."""


class OpenAiChatProvider(HttpProvider):
    """A server with OpenAI's chat. Subclasses say where theirs differs."""

    stream_type: ClassVar[str] = "text/event-stream"
    health_path: ClassVar[str] = "/v1/models"
    option_names: ClassVar[Mapping[str, str]] = {}
    """What the server calls an option, where that differs from our name."""
    ignored: ClassVar[Mapping[str, str]] = {}
    """Options that the server would ignore, which are refused, and what to do in place of each."""
    thoughts: ClassVar[Literal["reasoning", "reasoning_content"] | None] = None
    """The field of a turn that holds its reasoning; None: as the agent wrote it, and a refusal too."""
    continuing: ClassVar[Mapping[str, JsonValue] | None] = None
    """What a request says besides if its last message is a begun answer; None: the server cannot continue one."""
    echoes: ClassVar[bool] = True
    """Whether a continued answer may begin with what it continues."""
    reader: ClassVar[type[OpenAiAnswerReader]] = OpenAiAnswerReader

    async def chat(
        self, request: ChatRequest, model: str, resume: str | None = None
    ) -> AsyncGenerator[TokenDelta, None]:
        """Stream the answer; see `LlmProvider.chat`."""
        with self._placed(model):
            refuse_ignored(request, self.ignored, self._lane.provider)
            request = self._adapted(self._with_known_turns(request))
            await check_length(self, self._lane, request, model)
            path, body, answer = await self._prepared(request, model, resume)
            async with aclosing(self._deltas(path, body, answer)) as deltas:
                async for delta in deltas:
                    yield delta

    async def models(self) -> list[ModelInfo]:
        """The models the server lists."""
        return self._infos(await self._page("/v1/models"))

    def _infos(self, page: Any) -> list[ModelInfo]:
        with self._expecting("/v1/models"):
            return [self._model_info(entry) for entry in page["data"]]

    async def capacity(self) -> int:
        """How many requests to run at once: a cautious guess, since the dialect has no word for it."""
        return 4

    def _with_known_turns(self, request: ChatRequest) -> ChatRequest:
        """The request with its turns in the words that this server knows.

        Raises:
            BadRequest: they say what it would ignore.
        """
        if (thoughts := self.thoughts) is None:
            return request
        return with_turns(request, lambda message: thought_and_refusal(message, thoughts))

    def _adapted(self, request: ChatRequest) -> ChatRequest:
        """The request as this server wants it, where more differs than the names of options.

        Raises:
            BadRequest: it asks for what this server would ignore.
        """
        return request

    async def _prepared(self, request: ChatRequest, model: str, resume: str | None) -> Prepared:
        """What to send.

        Raises:
            LlmError: the server cannot do that, or not for this model.
        """
        filters: list[TextFilter] = [Thinking()]
        more: Mapping[str, JsonValue] | None = None
        if resume is not None:
            if self.continuing is None:
                raise self._cannot_continue()
            more = self.continuing
            request, begun = continued(request, resume)
            filters = [Continuation(begun, echoed=self.echoes)]
        body = chat_body(request, model, self.option_names, more)
        return "/v1/chat/completions", body, self._reader(request, model, filters)

    def _reader(self, request: ChatRequest, model: str, filters: list[TextFilter]) -> OpenAiAnswerReader:
        if stops := cut_stops_of(request):
            filters = [*filters, StopWords(stops)]
        return self.reader(model, filters, self._same_model, logprobs=bool(request.logprobs))

    def _same_model(self, named: str, asked: str) -> bool:
        """Whether an answer that names the one is of the other."""
        return same_model(named, asked)

    def _cannot_continue(self, why: str = "") -> BadRequest:
        return BadRequest(
            f"Continuing a begun answer is not supported by {self._lane.provider}{why}: send the request again without."
        )

    def _model_info(self, entry: dict[str, Any]) -> ModelInfo:
        return ModelInfo(
            name=entry["id"],
            provider=self._lane.provider,
            lane=self._lane.name,
            context_length=entry.get("max_model_len"),
            # The list does not say what a model is for: nothing but its name tells.
            capabilities=("embed",) if "embed" in entry["id"].lower() else ("chat",),
        )


class OpenAiProvider(OpenAiChatProvider):
    """Any OpenAI-compatible server: it has embeddings too. Subclasses say where theirs differs."""

    async def embed(self, inputs: Sequence[str], model: str, dimensions: int | None = None) -> list[list[float]]:
        """The vectors of the inputs; see `Embeds.embed`."""
        if not inputs:
            return []
        # Without this word OpenAI's own client gets base64, which LM Studio does not know.
        question: dict[str, JsonValue] = {"model": model, "input": [*inputs], "encoding_format": "float"}
        if dimensions is None:
            return await self._embedded(question, inputs, model)
        try:
            return await self._embedded({**question, "dimensions": dimensions}, inputs, model)
        except (ContextTooLong, TooManyTexts):
            raise
        except BadRequest:
            # A model with one size often refuses the option, even with that size.
            return await self._embedded(question, inputs, model)

    async def _embedded(self, question: JsonValue, inputs: Sequence[str], model: str) -> list[list[float]]:
        page = await self._work("/v1/embeddings", question, model)
        with self._placed(model):
            return vectors_in(page, len(inputs), model, self._same_model)
