"""The checks of a provider, one function each; its docstring is the promise that it checks."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Collection
from contextlib import AsyncExitStack, aclosing, suppress
from dataclasses import dataclass, replace
from math import hypot
from typing import Literal

from tokenlane.routing.contract.errors import BadRequest, ContextTooLong, LlmError, ModelNotFound
from tokenlane.worker.providers.protocol import CountsTokens, Embeds, LlmProvider, TellsHealth, TellsVersion
from tokenlane.worker.providers.requests.turns import PIXEL

from .subject import QUESTION, Broken, Subject, check_error, request, text_of

MOST_AT_ONCE = 8
LONG = 1000
"""Tokens of an answer that is not meant to end by itself."""
BEGUN = "The capital of France "
NO_MODEL = "no-such-model-5e1f"
MOST_TRIED = 70_000
"""Tokens of a context that is worth filling to see it overflow."""
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
"""It works; the provider refuses it, and says so; the server decides, or nothing shows it; a promise is broken."""


@dataclass(frozen=True)
class CheckResult:
    """The outcome of one check, with a detail for people."""

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
        """No promise is broken."""
        return all(result.outcome != "failed" for result in self.results)

    def table(self) -> str:
        """A line for each check."""
        width = max((len(result.check) for result in self.results), default=0)
        lines = [f"{each.check:<{width}}  {each.outcome:<7}  {each.detail}".rstrip() for each in self.results]
        return "\n".join([f"provider {self.provider}, model {self.model}", *lines])


Check = Callable[[Subject], Awaitable[tuple[Outcome, str]]]


async def models(subject: Subject) -> tuple[Outcome, str]:
    """The model is listed, with what it can do."""
    subject.listed = await subject.provider.models()
    names = [info.name for info in subject.listed]
    found = [info for info in subject.listed if info.name in (subject.model, f"{subject.model}:latest")]
    if not found:
        raise Broken(f"{subject.model!r} is not among the models it lists: {names[:5]}")
    subject.info = found[0]
    if await subject.provider.capacity() < 1:
        raise Broken("its capacity is below 1")
    return "works", ", ".join(subject.info.capabilities) or "says nothing of what it can do"


async def chat(subject: Subject) -> tuple[Outcome, str]:
    """An answer streams, ends once, by its finish reason, and says what it cost if the server counts."""
    deltas = await subject.answer(max_tokens=16)
    if not text_of(deltas) and not any(delta.reasoning for delta in deltas):
        raise Broken("the answer holds nothing")
    usage = deltas[-1].usage
    if usage is not None and usage.completion_tokens < 1:
        raise Broken("the usage counts no token of the answer")
    return "works", "with usage" if usage is not None else "without usage"


async def limit(subject: Subject) -> tuple[Outcome, str]:
    """`max_tokens` ends an answer, and is its finish reason."""
    reason = (await subject.answer(max_tokens=2))[-1].finish_reason
    if reason != "length":
        raise Broken(f"an answer cut at max_tokens ends as {reason!r}")
    return "works", ""


async def stop(subject: Subject) -> tuple[Outcome, str]:
    """A stop word ends an answer before it appears."""
    whole = text_of(await subject.answer(max_tokens=24))
    words = [word for word in whole.split() if len(word) > 1]
    if len(words) < 3:
        return "open", "the answer is too short to tell"
    deltas = await subject.answer(max_tokens=24, stop=[words[1]])
    if words[1] in text_of(deltas):
        raise Broken("the stop word is part of the answer")
    return "works", ""


async def cancel(subject: Subject) -> tuple[Outcome, str]:
    """Leaving an answer frees its slot; cancelling raises CancelledError and nothing else."""
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
        raise Broken(f"a cancelled chat raises {type(error).__name__}") from None
    if subject.busy is not None:
        async with asyncio.timeout(subject.patience_s):
            while await subject.busy():  # noqa: ASYNC110 - a server is asked, which rings nothing
                await asyncio.sleep(0.02)
    await subject.answer(max_tokens=2)
    if subject.busy is None:
        return "open", "not verified: nothing says whether the server works on; the next answer came"
    return "works", "the server says so"


async def errors(subject: Subject) -> tuple[Outcome, str]:
    """A model that is not there is a ModelNotFound that says where, and nothing of another model is delivered."""
    error = await replace(subject, model=NO_MODEL).refusal(max_tokens=2)
    if error is None:
        raise Broken("a model that is not there answers")
    if not isinstance(error, ModelNotFound):
        raise Broken(f"a model that is not there is {type(error).__name__}, not ModelNotFound")
    return "works", ""


async def too_long(subject: Subject) -> tuple[Outcome, str]:
    """A prompt longer than the model's context is a ContextTooLong."""
    size = subject.info.context_length
    if size is None or size > MOST_TRIED:
        return "open", f"its context is {size or 'not told'}"
    error = await subject.refusal(messages=[{"role": "user", "content": "word " * (size + 100)}], max_tokens=2)
    if not isinstance(error, ContextTooLong):
        raise Broken(f"too long a prompt is {type(error).__name__ if error else 'answered'}, not ContextTooLong")
    return "works", ""


async def schema(subject: Subject) -> tuple[Outcome, str]:
    """With a JSON schema the answer is JSON of that form."""
    try:
        said = text_of(await subject.answer(response_format=FORM, max_tokens=32))
    except LlmError as error:
        return _not_offered(subject, "schema", error)
    try:
        obeyed = list(json.JSONDecoder().raw_decode(said.strip())[0]) == ["capital"]
    except (ValueError, TypeError):
        obeyed = False
    if not obeyed and subject.declares("schema"):
        raise Broken("the answer is not in the form that was asked for")
    return ("works", "") if subject.declares("schema") else ("open", "obeyed" if obeyed else "ignored")


async def tools(subject: Subject) -> tuple[Outcome, str]:
    """A call of a tool has its name, arguments that are JSON, and the finish reason `tool_calls`."""
    asked = [{"role": "user", "content": "What is the weather in Paris? Use the tool."}]
    try:
        deltas = await subject.answer(messages=asked, tools=[TOOL], max_tokens=64)
    except LlmError as error:
        return _not_offered(subject, "tools", error)
    if subject.declares("tools") and not any(delta.tool_calls for delta in deltas):
        with suppress(LlmError):  # not all servers can be told to
            deltas = await subject.answer(messages=asked, tools=[TOOL], tool_choice="required", max_tokens=64)
    pieces = [call for delta in deltas for call in delta.tool_calls]
    if not pieces:
        return "works" if subject.declares("tools") else "open", "accepted; this model called none"
    arguments = "".join(piece.arguments for piece in pieces if piece.index == pieces[0].index)
    if pieces[0].name != "weather":
        raise Broken("the first piece of a call does not name the tool")
    if deltas[-1].finish_reason not in ("tool_calls", "length"):
        raise Broken(f"a call ends as {deltas[-1].finish_reason!r}")
    if deltas[-1].finish_reason == "tool_calls":
        try:
            json.loads(arguments or "{}")
        except ValueError:
            raise Broken("the pieces of a call's arguments make no JSON") from None
    return "works" if subject.declares("tools") else "open", f"called, in {len(pieces)} pieces"


async def vision(subject: Subject) -> tuple[Outcome, str]:
    """An image is taken, or refused: it is never left out without a word."""
    parts = [{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": {"url": PIXEL}}]
    error = await subject.refusal(messages=[{"role": "user", "content": parts}], max_tokens=2)
    if error is not None:
        return _not_offered(subject, "vision", error)
    return ("works", "") if subject.declares("vision") else ("open", "taken, though the model is not said to see")


async def prefill(subject: Subject) -> tuple[Outcome, str]:
    """A begun answer is continued, and what comes is the continuation alone."""
    await models(subject)  # of some models it is known only once they are loaded
    if not subject.declares("prefill"):
        error = await subject.refusal(resume=BEGUN, max_tokens=8)
        if error is None:
            raise Broken("it does not declare `prefill`, and takes a begun answer all the same")
        return _not_offered(subject, "prefill", error)
    said = text_of(await subject.answer(resume=BEGUN, max_tokens=8))
    if said.startswith((BEGUN.strip(), " ")):
        raise Broken("the begun answer, or the white space at its end, comes again")
    return "works", ""


async def embed(subject: Subject) -> tuple[Outcome, str]:
    """Vectors are of one length, of length 1 each, and in the order of their inputs; of nothing, nothing comes."""
    provider = subject.provider
    able = [info.name for info in subject.listed if "embed" in info.capabilities]
    if not isinstance(provider, Embeds):
        if able:
            raise Broken(f"{able[0]!r} is said to embed, and the provider has no `embed`")
        return "refused", "it has no `embed`"
    model = subject.embedding_model if not able or subject.embedding_model in able else able[0]
    try:
        one, two = await provider.embed([QUESTION, "A cat."], model)
    except LlmError as error:
        check_error(error)
        if able:
            raise Broken(f"{model!r} is said to embed, and fails: {error.code}") from None
        return ("refused", error.message) if not error.retryable else ("open", error.message)
    if any(abs(hypot(*vector) - 1) > 1e-3 for vector in (one, two)) or len(one) != len(two):
        raise Broken("the vectors are not all of length 1, or have several dimensions")
    again = await provider.embed(["A cat.", QUESTION], model)
    if sum(a * b for a, b in zip(two, again[0], strict=True)) < 0.99:
        raise Broken("the vectors are not in the order of their inputs")
    if await provider.embed([], model):
        raise Broken("of no inputs it makes vectors")
    return ("works" if able else "open"), f"{len(one)} dimensions"


async def count(subject: Subject) -> tuple[Outcome, str]:
    """A prompt's tokens are counted as the model reads them."""
    provider: object = subject.provider
    if not isinstance(provider, CountsTokens):
        return "refused", "it does not count"
    counted = await provider.count_tokens(request(), subject.model)
    usage = (await subject.answer(max_tokens=2))[-1].usage
    if usage is not None and usage.prompt_tokens != counted:
        raise Broken(f"{counted} tokens were counted and {usage.prompt_tokens} read")
    return "works", f"{counted} tokens"


async def health(subject: Subject) -> tuple[Outcome, str]:
    """A server that answers is healthy, and tells its version or not."""
    provider: object = subject.provider
    version = await provider.version() if isinstance(provider, TellsVersion) else None
    said = f"version {version}" if version else ""
    if not isinstance(provider, TellsHealth):
        return "refused", said or "it does not tell"
    await provider.healthy()
    return "works", said


CHECKS: dict[str, Check] = {
    "models": models,
    "health": health,
    "chat": chat,
    "limit": limit,
    "stop": stop,
    "cancel": cancel,
    "errors": errors,
    "too long": too_long,
    "schema": schema,
    "tools": tools,
    "vision": vision,
    "prefill": prefill,
    "embed": embed,
    "count": count,
}
"""By name, in the order they are run: the first tells the others what is declared."""


def _not_offered(subject: Subject, ability: str, error: LlmError) -> tuple[Outcome, str]:
    if subject.declares(ability):
        raise Broken(f"it declares `{ability}`, and refuses it: {error.message}")
    if not isinstance(error, BadRequest) or error.retryable:
        raise Broken(f"what it does not offer is {type(error).__name__}, which does not say so: {error.message}")
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
    """Run all checks, one after the other; none raises.

    Args:
        only: the checks to run, of `CHECKS`; `models` comes first in any case.
        name: what to call the provider in the report.
        embedding_model: for servers that embed with another model than they chat with.
        busy: how many requests the server runs at the moment, if that can be told.
        patience_s: how long any one answer may take.
    """
    subject = Subject(provider, model, embedding_model or model, patience_s, busy)
    wanted = [check for check in CHECKS if only is None or check in {"models", *only}]
    results = [await _find(check, CHECKS[check], subject) for check in wanted]
    return Report(name or type(provider).__name__, model, tuple(results))


async def _find(name: str, check: Check, subject: Subject) -> CheckResult:
    try:
        outcome, detail = await check(subject)
    except Broken as broken:
        outcome, detail = "failed", str(broken)
    except LlmError as error:
        outcome, detail = "failed", f"{type(error).__name__}: {error}"
    except Exception as error:
        outcome, detail = "failed", f"{type(error).__name__} was raised, which is no LlmError"
    return CheckResult(name, outcome, detail)
