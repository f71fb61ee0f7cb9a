"""Passes an answer through a token hook.

The hook reads and yields text, reasoning, tool calls and log probabilities. It never sees the finish reason and the
usage: they follow, as the last delta, once the hook has ended, so that a hook which holds text back can flush it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from pydantic import ValidationError
from pydantic_core import PydanticSerializationError

from tokenlane.routing.contract.answers import FinishReason, TokenDelta, Usage
from tokenlane.routing.contract.errors import HookFailed

from .functions import PATIENCE_S, DeltaHook, TokenHook, hook_error, name_of, reads_stream
from .step_limit import StepLimit

logger = logging.getLogger(__name__)

MOST_DELTAS = 65_536
"""How many deltas a hook may yield without reading one."""
LONGEST_ANSWER = 32 * 1024 * 1024
"""How many characters a hook may yield, which is as long an answer as an agent accepts."""
_BREATHER = 256
"""After how many deltas without reading one a hook lets other tasks run."""
_CLOSE_S = 1.0
_EMPTY = {"text": "", "reasoning": "", "tool_calls": (), "logprobs": (), "finish_reason": None}
"""The fields of a delta that a hook may set, each with the value that says nothing."""
_CONTENT = frozenset(_EMPTY)
_PLACE = ("request_id", "attempt", "position", "lane", "model")


async def filter_deltas(
    hook: TokenHook, source: AsyncGenerator[TokenDelta, None], *, patience_s: float = PATIENCE_S
) -> AsyncGenerator[TokenDelta, None]:
    """Yield the deltas that the hook yields for an answer, and then a delta with the finish reason and the usage.

    A delta has the place, model and position of the last delta that the hook had read. If the hook ends or finishes the
    answer before the source has ended, the source is closed, and the finish reason is the hook's or "stop". Closing the
    generator closes first the source and then the hook.

    Args:
        source: the answer; closed at the end.
        patience_s: how long the hook may take until it reads or yields again.

    Raises:
        HookFailed: the hook raised an error, yielded something else than valid deltas, yielded after its finish reason,
            took too long, or yields without end.
        Exception: an error of the source, even if the hook caught it.
    """
    with StepLimit(f"token hook {name_of(hook)!r}", patience_s) as limit:
        reading = _Reading(source, limit)
        run = _Run(hook, reading, limit, patience_s)
        try:
            finish_reason: FinishReason | None = None
            while (delta := await run.step()) is not None:
                if (finish_reason := delta.finish_reason) is not None:
                    await reading.close()
                    await run.expect_end()
                    delta.finish_reason = None
                    delta.model_fields_set.discard("finish_reason")
                if _has_content(delta):
                    yield delta
            finish_reason = finish_reason or (reading.finish_reason if reading.has_ended else "stop")
            await reading.close()
            if finish_reason is not None:
                yield reading.last(finish_reason)
        finally:
            try:
                await reading.close()
            finally:
                await run.close()


def _has_content(delta: TokenDelta) -> bool:
    return not delta.model_fields_set.isdisjoint(_CONTENT)


def _place_of(delta: TokenDelta) -> dict[str, Any]:
    fields = delta.model_fields_set
    return {field: getattr(delta, field) for field in _PLACE if field in fields}


class _Reading:
    """The answer as the hook reads it.

    `yielded`: how many deltas the hook has yielded since it read the last one. `place`: the request, attempt, position,
    lane and model of that delta. `error`: what the source raised.

    Args:
        limit: the time limit of the hook's steps, which does not count the time of reading.
    """

    def __init__(self, source: AsyncGenerator[TokenDelta, None], limit: StepLimit) -> None:
        self._source, self._limit = source, limit
        self.place: dict[str, Any] = {}
        self._last_place: dict[str, Any] = {}
        self.yielded = 0
        self.has_ended = False
        self.error: BaseException | None = None
        self.finish_reason: FinishReason | None = None
        self._usage: Usage | None = None

    def __aiter__(self) -> AsyncIterator[TokenDelta]:
        return self

    async def __anext__(self) -> TokenDelta:
        if not self._limit.is_current():
            raise RuntimeError("a token hook must read the answer in the task in which it is called")
        self.yielded = 0
        while not self.has_ended:
            delta = await self._next()
            if delta is not None and _has_content(delta):
                self.place = self._last_place
                return delta
        raise StopAsyncIteration

    async def _next(self) -> TokenDelta | None:
        self._limit.pause()
        try:
            delta = await anext(self._source)
        except StopAsyncIteration:
            self.has_ended = True
            return None
        except BaseException as error:
            self.error, self.has_ended = error, True
            raise
        finally:
            self._limit.resume()
        self._last_place = _place_of(delta)
        if delta.finish_reason is not None or delta.usage is not None:
            self.finish_reason = delta.finish_reason or self.finish_reason
            self._usage = delta.usage or self._usage
            delta.finish_reason = delta.usage = None
            delta.model_fields_set.difference_update({"finish_reason", "usage"})
        return delta

    def last(self, finish_reason: FinishReason) -> TokenDelta:
        """The last delta of the answer, in the place of the last delta of the source."""
        last = TokenDelta(finish_reason=finish_reason, **self._last_place)
        if self._usage is not None:
            last.usage = self._usage
        return last

    async def close(self) -> None:
        """Close the source. The hook can read nothing more."""
        self.has_ended = True
        await self._source.aclose()


class _Run:
    """The hook while it filters one answer."""

    def __init__(self, hook: TokenHook, reading: _Reading, limit: StepLimit, patience_s: float) -> None:
        self._hook, self._reading, self._limit, self._patience_s = hook, reading, limit, patience_s
        self._output: AsyncIterator[TokenDelta] | None = None
        self._size = 0

    async def step(self) -> TokenDelta | None:
        """Return a copy of the next delta that the hook yields, in the place of the last delta that the hook has read.
        Return None once the hook has ended.

        Raises:
            HookFailed: see `filter_deltas`.
            Exception: the error of the source.
        """
        reading = self._reading
        if reading.yielded > MOST_DELTAS:
            raise self._failed(f"yielded {MOST_DELTAS} deltas in a row without reading one")
        if reading.yielded % _BREATHER == _BREATHER - 1:
            await asyncio.sleep(0)
        try:
            delta = await self._limit.run(self._next())
        except StopAsyncIteration:
            self._raise_error_of_source()
            return None
        except BaseException as error:
            if self._limit.is_interruption(error):
                raise
            self._raise_error_of_source()
            if self._limit.has_expired:
                what = f"neither read nor yielded a delta for {self._patience_s:g} s"
                raise self._failed(what) from error
            raise hook_error(self._hook, "token hook", error) from error
        self._raise_error_of_source()
        reading.yielded += 1
        return self._checked(delta)

    async def expect_end(self) -> None:
        """Check that the hook yields nothing after its finish reason."""
        while (delta := await self.step()) is not None:
            if _has_content(delta):
                raise self._failed("yielded a delta after the finish reason")

    async def close(self) -> None:
        """Close the hook. An error that it raises now is only logged, since its answer is over."""
        if not isinstance(self._output, AsyncGenerator):
            return
        limit = StepLimit(f"token hook {name_of(self._hook)!r}", _CLOSE_S)
        try:
            with limit:
                await limit.run(self._output.aclose())
        except BaseException as error:
            if limit.is_interruption(error):
                raise
            logger.warning("%s", hook_error(self._hook, "token hook", error).message)

    async def _next(self) -> TokenDelta:
        if self._output is None:
            self._output = _output(self._hook, self._reading)
        return await anext(self._output)

    def _raise_error_of_source(self) -> None:
        match self._reading.error:
            case None:
                return
            case asyncio.CancelledError():  # by the hook itself: `StepLimit` raises any other cancellation
                raise self._failed("cancelled its reading of the answer")
            case error:
                raise error

    def _checked(self, delta: object) -> TokenDelta:
        """A valid copy of a delta from the hook, which may go on to change its own."""
        if not isinstance(delta, TokenDelta):
            raise self._failed(f"yielded a value of type {type(delta).__name__} instead of a TokenDelta")
        fields = delta.model_fields_set & _CONTENT
        given = {field: value for field in fields if (value := getattr(delta, field)) != _EMPTY[field]}
        try:
            checked = TokenDelta.model_validate(given | self._reading.place)
            checked.text.encode() if given.keys() <= {"text"} else checked.to_wire()
        except (ValidationError, PydanticSerializationError, UnicodeError):
            wrong = ", ".join(sorted(fields))
            raise self._failed(f"yielded a TokenDelta that is not valid: check its {wrong}") from None
        self._size += len(checked.text) + len(checked.reasoning)
        self._size += sum(len(call.arguments) for call in checked.tool_calls)
        if self._size > LONGEST_ANSWER:
            raise self._failed(f"yielded more than {LONGEST_ANSWER} characters")
        return checked

    def _failed(self, what: str) -> HookFailed:
        return HookFailed(f"The token hook {name_of(self._hook)!r} {what}.")


def _output(hook: TokenHook, reading: _Reading) -> AsyncIterator[TokenDelta]:
    if not reads_stream(hook):
        return _each(hook, reading)
    return aiter(hook(reading))


async def _each(hook: DeltaHook, reading: _Reading) -> AsyncGenerator[TokenDelta, None]:
    """Call the hook with each delta, and yield what it returns."""
    async for delta in reading:
        returned = hook(delta)
        if isinstance(returned, TokenDelta):
            yield returned
        elif returned is not None:
            for piece in returned:
                yield piece
