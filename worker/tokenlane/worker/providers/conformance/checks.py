"""The checks of a provider. Each is a function whose docstring is the promise that it checks."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Collection
from contextlib import AsyncExitStack, aclosing, suppress
from dataclasses import dataclass, replace
from math import hypot
from typing import Literal

from tokenlane.routing.contract.errors import BadRequest, ContextTooLong, LlmError, ModelNotFound
from tokenlane.worker.providers.protocol import CountsTokens, Embeds, LlmProvider, ReportsHealth, ReportsVersion
from tokenlane.worker.providers.requests.turns import PIXEL

from .subject import QUESTION, BrokenPromise, Subject, check_error, joined_text, request

MOST_AT_ONCE = 8
LONG = 1000
"""Tokens of an answer that the checks do not read to its end."""
PARTIAL_ANSWER = "The capital of France "
NO_MODEL = "no-such-model-5e1f"
MOST_TRIED = 70_000
"""The largest context, in tokens, that the checks fill to make it overflow."""
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
SCHEMA = {
    "type": "object",
    "properties": {"capital": {"type": "boolean"}},
    "required": ["capital"],
    "additionalProperties": False,
}
FORM = {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA}}

Outcome = Literal["works", "refused", "open", "failed"]
"""`works`: the ability works. `refused`: the provider refuses requests that need it. `open`: the server decides, or the
check cannot tell. `failed`: the provider breaks a promise."""


@dataclass(frozen=True)
class CheckResult:
    """The outcome of one check. `detail` explains it to a person."""

    check: str
    outcome: Outcome
    detail: str = ""


@dataclass(frozen=True)
class Report:
    """The results of all checks for one model of a provider."""

    provider: str
    model: str
    results: tuple[CheckResult, ...]

    @property
    def passed(self) -> bool:
        """Whether no check failed."""
        return all(result.outcome != "failed" for result in self.results)

    def table(self) -> str:
        """The report as text, with one line for each check."""
        width = max((len(result.check) for result in self.results), default=0)
        lines = [f"{each.check:<{width}}  {each.outcome:<7}  {each.detail}".rstrip() for each in self.results]
        return "\n".join([f"provider {self.provider}, model {self.model}", *lines])


Check = Callable[[Subject], Awaitable[tuple[Outcome, str]]]


async def models(subject: Subject) -> tuple[Outcome, str]:
    """The provider lists the model with its abilities."""
    subject.listed = await subject.provider.models()
    names = [info.name for info in subject.listed]
    matches = [info for info in subject.listed if info.name in (subject.model, f"{subject.model}:latest")]
    if not matches:
        raise BrokenPromise(f"{subject.model!r} is not among the listed models: {names[:5]}")
    subject.info = matches[0]
    if await subject.provider.capacity() < 1:
        raise BrokenPromise("the capacity is below 1")
    return "works", ", ".join(subject.info.capabilities) or "declares no abilities"


async def chat(subject: Subject) -> tuple[Outcome, str]:
    """An answer is streamed, ends once with a finish reason, and has a usage if the server counts tokens."""
    deltas = await subject.answer(max_tokens=16)
    if not joined_text(deltas) and not any(delta.reasoning for delta in deltas):
        raise BrokenPromise("the answer is empty")
    usage = deltas[-1].usage
    if usage is not None and usage.completion_tokens < 1:
        raise BrokenPromise("the usage counts 0 tokens for the answer")
    return "works", "with usage" if usage is not None else "without usage"


async def limit(subject: Subject) -> tuple[Outcome, str]:
    """`max_tokens` ends an answer with the finish reason `length`."""
    reason = (await subject.answer(max_tokens=2))[-1].finish_reason
    if reason != "length":
        raise BrokenPromise(f"an answer that reached max_tokens has the finish reason {reason!r}")
    return "works", ""


async def stop(subject: Subject) -> tuple[Outcome, str]:
    """An answer ends before a stop word, without it."""
    whole = joined_text(await subject.answer(max_tokens=24))
    words = [word for word in whole.split() if len(word) > 1]
    if len(words) < 3:
        return "open", "the answer is too short to check"
    deltas = await subject.answer(max_tokens=24, stop=[words[1]])
    if words[1] in joined_text(deltas):
        raise BrokenPromise("the stop word is part of the answer")
    return "works", ""


async def cancel(subject: Subject) -> tuple[Outcome, str]:
    """Closing an answer's stream frees its slot. Cancelling a chat raises only CancelledError."""
    slots = min(await subject.provider.capacity(), MOST_AT_ONCE)
    async with asyncio.timeout(subject.patience_s), AsyncExitStack() as streams:
        for _ in range(slots):
            stream = subject.provider.chat(request(max_tokens=LONG), subject.model)
            await anext(await streams.enter_async_context(aclosing(stream)))
    answering = asyncio.create_task(subject.answer(max_tokens=LONG))
    await asyncio.sleep(0)
    answering.cancel()
    try:
        await answering
    except asyncio.CancelledError:
        pass
    except Exception as error:
        raise BrokenPromise(f"a cancelled chat raises {type(error).__name__}") from None
    if subject.busy is not None:
        async with asyncio.timeout(subject.patience_s):
            while await subject.busy():  # noqa: ASYNC110 - a server must be polled
                await asyncio.sleep(0.02)
    await subject.answer(max_tokens=2)
    if subject.busy is None:
        return "open", "not verified: cannot see whether the server stopped; the next answer arrived"
    return "works", "the server confirms it"


async def errors(subject: Subject) -> tuple[Outcome, str]:
    """A chat with a missing model raises ModelNotFound with the provider and the lane, and no other model answers."""
    error = await replace(subject, model=NO_MODEL).refusal(max_tokens=2)
    if error is None:
        raise BrokenPromise("a chat with a missing model was answered")
    if not isinstance(error, ModelNotFound):
        raise BrokenPromise(f"a missing model raised {type(error).__name__}, not ModelNotFound")
    return "works", ""


async def context_limit(subject: Subject) -> tuple[Outcome, str]:
    """A prompt longer than the model's context raises ContextTooLong."""
    size = subject.info.context_length
    if size is None or size > MOST_TRIED:
        return "open", f"not checked: the context is {size or 'unknown'}"
    error = await subject.refusal(messages=[{"role": "user", "content": "word " * (size + 100)}], max_tokens=2)
    if not isinstance(error, ContextTooLong):
        outcome = f"raised {type(error).__name__}" if error else "was answered"
        raise BrokenPromise(f"a prompt that is too long {outcome} instead of raising ContextTooLong")
    return "works", ""


async def schema(subject: Subject) -> tuple[Outcome, str]:
    """With a JSON schema, the answer is JSON that follows the schema."""
    try:
        text = joined_text(await subject.answer(response_format=FORM, max_tokens=32))
    except LlmError as error:
        return _not_offered(subject, "schema", error)
    try:
        obeyed = list(json.JSONDecoder().raw_decode(text.strip())[0]) == ["capital"]
    except (ValueError, TypeError):
        obeyed = False
    if not obeyed and subject.declares("schema"):
        raise BrokenPromise("the answer does not follow the schema")
    return ("works", "") if subject.declares("schema") else ("open", "obeyed" if obeyed else "ignored")


async def tools(subject: Subject) -> tuple[Outcome, str]:
    """A tool call has a name, JSON arguments, and the finish reason `tool_calls`."""
    messages = [{"role": "user", "content": "What is the weather in Paris? Use the tool."}]
    try:
        deltas = await subject.answer(messages=messages, tools=[TOOL], max_tokens=64)
    except LlmError as error:
        return _not_offered(subject, "tools", error)
    if subject.declares("tools") and not any(delta.tool_calls for delta in deltas):
        with suppress(LlmError):  # not all servers support "required"
            deltas = await subject.answer(messages=messages, tools=[TOOL], tool_choice="required", max_tokens=64)
    pieces = [call for delta in deltas for call in delta.tool_calls]
    if not pieces:
        return "works" if subject.declares("tools") else "open", "accepted; this model called none"
    arguments = "".join(piece.arguments for piece in pieces if piece.index == pieces[0].index)
    if pieces[0].name != "weather":
        raise BrokenPromise("the first piece of a call does not name the tool")
    if deltas[-1].finish_reason not in ("tool_calls", "length"):
        raise BrokenPromise(f"an answer with a tool call has the finish reason {deltas[-1].finish_reason!r}")
    if deltas[-1].finish_reason == "tool_calls":
        try:
            json.loads(arguments or "{}")
        except ValueError:
            raise BrokenPromise("the joined arguments of a call are not JSON") from None
    return "works" if subject.declares("tools") else "open", f"called, in {len(pieces)} pieces"


async def vision(subject: Subject) -> tuple[Outcome, str]:
    """An image is accepted or refused, never silently ignored."""
    parts = [{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": {"url": PIXEL}}]
    error = await subject.refusal(messages=[{"role": "user", "content": parts}], max_tokens=2)
    if error is not None:
        return _not_offered(subject, "vision", error)
    return (
        ("works", "") if subject.declares("vision") else ("open", "accepted, but the model does not declare `vision`")
    )


async def prefill(subject: Subject) -> tuple[Outcome, str]:
    """A partial answer is continued, and is not repeated."""
    await models(subject)  # some models show this ability only once they are loaded
    if not subject.declares("prefill"):
        error = await subject.refusal(resume=PARTIAL_ANSWER, max_tokens=8)
        if error is None:
            raise BrokenPromise("it does not declare `prefill`, but accepts a partial answer")
        return _not_offered(subject, "prefill", error)
    text = joined_text(await subject.answer(resume=PARTIAL_ANSWER, max_tokens=8))
    if text.startswith((PARTIAL_ANSWER.strip(), " ")):
        raise BrokenPromise("the partial answer, or the white space at its end, is repeated")
    return "works", ""


async def embed(subject: Subject) -> tuple[Outcome, str]:
    """All vectors have length 1 and the same number of dimensions, in the order of the inputs. No inputs give no
    vectors."""
    provider = subject.provider
    able = [info.name for info in subject.listed if "embed" in info.capabilities]
    if not isinstance(provider, Embeds):
        if able:
            raise BrokenPromise(f"{able[0]!r} declares `embed`, but the provider has no `embed` method")
        return "refused", "the provider has no `embed` method"
    model = subject.embedding_model if not able or subject.embedding_model in able else able[0]
    try:
        first, second = await provider.embed([QUESTION, "A cat."], model)
    except LlmError as error:
        check_error(error)
        if able:
            raise BrokenPromise(f"{model!r} declares `embed`, but embedding failed: {error.code}") from None
        return ("refused", error.message) if not error.retryable else ("open", error.message)
    if any(abs(hypot(*vector) - 1) > 1e-3 for vector in (first, second)) or len(first) != len(second):
        raise BrokenPromise("the vectors do not all have length 1, or differ in their dimensions")
    again = await provider.embed(["A cat.", QUESTION], model)
    if sum(a * b for a, b in zip(second, again[0], strict=True)) < 0.99:
        raise BrokenPromise("the vectors are not in the order of their inputs")
    if await provider.embed([], model):
        raise BrokenPromise("an empty list of inputs gives vectors")
    return ("works" if able else "open"), f"{len(first)} dimensions"


async def count(subject: Subject) -> tuple[Outcome, str]:
    """The provider counts as many tokens in a prompt as the model reads."""
    provider: object = subject.provider
    if not isinstance(provider, CountsTokens):
        return "refused", "the provider does not count tokens"
    counted = await provider.count_tokens(request(), subject.model)
    usage = (await subject.answer(max_tokens=2))[-1].usage
    if usage is not None and usage.prompt_tokens != counted:
        raise BrokenPromise(f"the provider counted {counted} tokens, but the model read {usage.prompt_tokens}")
    return "works", f"{counted} tokens"


async def health(subject: Subject) -> tuple[Outcome, str]:
    """A server that answers counts as healthy."""
    provider: object = subject.provider
    version = await provider.version() if isinstance(provider, ReportsVersion) else None
    detail = f"version {version}" if version else ""
    if not isinstance(provider, ReportsHealth):
        return "refused", detail or "the provider has no health check"
    await provider.healthy()
    return "works", detail


CHECKS: dict[str, Check] = {
    "models": models,
    "health": health,
    "chat": chat,
    "limit": limit,
    "stop": stop,
    "cancel": cancel,
    "errors": errors,
    "too long": context_limit,
    "schema": schema,
    "tools": tools,
    "vision": vision,
    "prefill": prefill,
    "embed": embed,
    "count": count,
}
"""All checks by name, in the order in which they run. The first check reads the abilities that the model declares."""


def _not_offered(subject: Subject, ability: str, error: LlmError) -> tuple[Outcome, str]:
    if subject.declares(ability):
        raise BrokenPromise(f"it declares `{ability}`, but refuses it: {error.message}")
    if not isinstance(error, BadRequest) or error.retryable:
        raise BrokenPromise(
            f"it refuses `{ability}` with {type(error).__name__} instead of BadRequest: {error.message}"
        )
    return "refused", error.message


async def check_provider(
    provider: LlmProvider,
    model: str,
    *,
    name: str = "",
    embedding_model: str | None = None,
    busy: Callable[[], Awaitable[int]] | None = None,
    patience_s: float = 120.0,
    only: Collection[str] | None = None,
) -> Report:
    """Run all checks, one after the other. A failed check does not raise.

    Args:
        only: the names of the checks to run; None for all. `models` always runs first.
        name: the provider's name in the report.
        embedding_model: the model for the check of embeddings; `model` if None.
        busy: returns how many requests the server runs now; None if that cannot be measured.
        patience_s: the longest time for one answer, in seconds.
    """
    subject = Subject(provider, model, embedding_model or model, patience_s, busy)
    wanted = [check for check in CHECKS if only is None or check in {"models", *only}]
    results = [await _run(check, CHECKS[check], subject) for check in wanted]
    return Report(name or type(provider).__name__, model, tuple(results))


async def _run(name: str, check: Check, subject: Subject) -> CheckResult:
    try:
        outcome, detail = await check(subject)
    except BrokenPromise as broken:
        outcome, detail = "failed", str(broken)
    except LlmError as error:
        outcome, detail = "failed", f"{type(error).__name__}: {error}"
    except Exception as error:
        outcome, detail = "failed", f"{type(error).__name__} was raised, which is not an LlmError"
    return CheckResult(name, outcome, detail)
