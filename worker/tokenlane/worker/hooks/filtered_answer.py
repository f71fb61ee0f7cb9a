"""Passes a model server's answer through the worker's token hook, also an answer that continues an earlier one."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from tokenlane.routing.contract.answers import TokenDelta, Usage
from tokenlane.routing.contract.errors import HookFailed, Interrupted
from tokenlane.routing.hooks.functions import TokenHook, name_of
from tokenlane.routing.hooks.token_hook import filter_deltas


async def filter_answer(
    hook: TokenHook, answer: AsyncGenerator[TokenDelta, None], delivered: str = ""
) -> AsyncGenerator[TokenDelta, None]:
    """Yield the deltas that the hook yields for an answer.

    If the answer continues an earlier one, the hook reads the delivered text first, as one delta, and has to yield this
    text again, in any number of deltas. They are not delivered again.

    Args:
        answer: the model server's answer; closed at the end.
        delivered: the text that agents have already received from earlier attempts.

    Raises:
        HookFailed: see `filter_deltas`; or the hook yields another text for the delivered one.
        Interrupted: the answer ends without a finish reason.
        LlmError: an error of the answer.
    """
    source = _Source(answer, delivered)
    rest = delivered
    async with aclosing(filter_deltas(hook, source.deltas())) as output:
        async for delta in output:
            if rest and delta.text:
                rest = _drop_delivered(hook, delta, rest)
            if delta.finish_reason is not None:
                if rest:
                    raise _changes_delivered(hook)
                if source.is_cut:
                    delta.usage = Usage(completion_tokens=source.read)  # at least: the server's own count comes last
            if delta.model_fields_set - {"model"}:
                yield delta


class _Source:
    """What the hook reads.

    `read`: how many deltas the model server has sent, which is about how many tokens. `is_cut`: whether the hook has
    not read the answer to its end.
    """

    def __init__(self, answer: AsyncGenerator[TokenDelta, None], delivered: str) -> None:
        self._answer, self._delivered = answer, delivered
        self.read, self.is_cut = 0, True

    async def deltas(self) -> AsyncGenerator[TokenDelta, None]:
        finished = False
        async with aclosing(self._answer):
            if self._delivered:
                yield TokenDelta(text=self._delivered)
            async for delta in self._answer:
                self.read += bool(delta.text or delta.reasoning)
                finished = finished or delta.finish_reason is not None
                yield delta
        if not finished:
            raise Interrupted("The model server's stream ended before the answer was complete.", retryable=True)
        self.is_cut = False


def _drop_delivered(hook: TokenHook, delta: TokenDelta, rest: str) -> str:
    """Remove from a delta what agents have of it, and return what the hook still has to yield again."""
    text = delta.text
    if not (rest.startswith(text) or text.startswith(rest)):
        raise _changes_delivered(hook)
    delta.text = text[len(rest) :]
    if not delta.text:
        delta.model_fields_set.discard("text")
    return rest[len(text) :]


def _changes_delivered(hook: TokenHook) -> HookFailed:
    return HookFailed(
        f"The token hook {name_of(hook)!r} changes text that it had yielded: given the beginning of an answer that "
        "broke off, as it was delivered, a hook must yield it unchanged."
    )
