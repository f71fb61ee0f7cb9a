"""Responses that go on without their clients. The gateway reads each to its end, and is the request's agent.

Any gateway serves any response: one that does not hold a response attaches to it, and holds it from then on too. All
that hold a response take it over from each other every few seconds, so that the pool does not take it for an orphan
when one of them dies.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from contextlib import suppress

from tokenlane.producer.gateway.access.caller import Caller
from tokenlane.producer.gateway.door import Asked, Door
from tokenlane.producer.gateway.failures import INTERNAL, Failure, Refused, failure_of
from tokenlane.producer.gateway.question import Begun
from tokenlane.routing.contract.answers import Answer
from tokenlane.routing.contract.errors import Interrupted, LlmError, RequestLost
from tokenlane.routing.store.request_records import RequestRecord
from tokenlane.routing.support.tasks import background

from .dialect import as_responses
from .kept import Kept, Rest
from .shelf import KEEP_S, MOST_BYTES, Shelf
from .snapshot import PREFIX

_TAKE_OVER_S = 4.0
"""Every so often a gateway becomes a response's owner again: several times within the pool's orphan timeout."""
_ATTACHED_S = 1.0
"""How long a gateway that has attached to a response waits for the first part of its answer."""
_CANCELLED_S = 2.0
_MOST_JOINS = 5
_GO_ON = ("waiting", "delayed", "dispatched", "running", "completed")
"""The states of a request whose answer another gateway may have."""
_ID = re.compile(PREFIX + "([0-9a-f]{32})")


class Background:
    """The responses in the background that a gateway holds.

    Args:
        tasks: in which the responses are read.
        ended: called with the answer of a response that this gateway was asked for.
        shelf: where responses are kept that have ended.
    """

    def __init__(self, door: Door, tasks: asyncio.TaskGroup, shelf: Shelf[Kept] | None = None) -> None:
        self._door = door
        self._tasks = tasks
        self._running: dict[str, Kept] = {}
        self._ended = Shelf[Kept]() if shelf is None else shelf

    async def start(self, asked: Asked, agent: str, ended: Callable[[Begun, Answer], None]) -> Kept:
        """Send a question. Returns once the pool has accepted it.

        Args:
            ended: called with the complete answer.

        Raises:
            LlmError: the pool refused it.
        """
        question = as_responses(asked.question)
        kept = Kept(asked.stream, asked.begun, agent, question.shown, as_summary=question.as_summary)
        await self._read(kept, ended)
        return kept

    async def find(self, response_id: str, caller: Caller) -> Kept:
        """The response with this id, whichever gateway was asked for it.

        Raises:
            Refused: nobody has it any more, or it is another agent's.
            LlmError: the pool does not answer.
        """
        match = _ID.fullmatch(response_id)
        kept = self._held(match[1]) if match else None
        if match and kept is None:
            record = await self._door.record_of(match[1])
            kept = self._held(match[1])  # another reader may have asked for it meanwhile
            if kept is None and record is not None and record.kind == "chat" and caller.has(record.agent):
                kept = await self._join(record, caller.agent)
        if kept is None or kept.agent != caller.agent:
            raise _unknown(had=match is not None and self._ended.had(match[1]))
        return kept

    async def cancel(self, kept: Kept) -> None:
        """Cancel a response, unless it has ended.

        Raises:
            LlmError: the pool does not answer.
        """
        if not kept.has_ended and await self._door.client.cancel(kept.request_id):
            with suppress(TimeoutError):
                async with asyncio.timeout(_CANCELLED_S):
                    await kept.ends()

    async def delete(self, kept: Kept) -> None:
        """Cancel a response, and forget it."""
        await self.cancel(kept)
        self._running.pop(kept.request_id, None)
        self._ended.drop(kept.request_id)

    def _held(self, request_id: str) -> Kept | None:
        return self._running.get(request_id) or self._ended.get(request_id)

    async def _join(self, record: RequestRecord, agent: str) -> Kept:
        """Attach to a response that another gateway was asked for.

        Raises:
            Refused: its answer is gone.
            LlmError: the pool does not answer.
        """
        created_s = int(time.time() - record.age_ms / 1000)
        kept = Kept(self._door.client.attach(record.id), Begun(record.id, record.model, created_s), agent)
        try:
            await self._read(kept, lambda _, __: None)
        except RequestLost:
            raise _unknown(had=True) from None
        with suppress(TimeoutError):
            async with asyncio.timeout(_ATTACHED_S):
                await kept.next(0)
        if record.state == "completed" and kept.failure is not None:
            self._ended.drop(record.id)
            raise _unknown(had=True)
        return kept

    async def _read(self, kept: Kept, ended: Callable[[Begun, Answer], None]) -> None:
        """Read a response to its end in a task. Returns once the pool has accepted the request."""
        entered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._tasks.create_task(self._follow(kept, entered, ended), name="tokenlane gateway: response")
        await asyncio.shield(entered)

    async def _follow(self, kept: Kept, entered: asyncio.Future[None], ended: Callable[[Begun, Answer], None]) -> None:
        try:
            answer = await self._read_to_end(kept, entered)
            ended(kept.begun, answer)
            self._finish(kept, answer)
        except Exception as error:
            if not entered.done():
                entered.set_exception(error)
                entered.exception()  # whoever waited for it may be gone
                return
            if not isinstance(error, LlmError):
                self._door.client.link.internal_errors.record("gateway", error)
            self._finish(kept, failure_of(error) if isinstance(error, LlmError) else INTERNAL)
        finally:
            if not entered.done():
                entered.cancel()

    async def _read_to_end(self, kept: Kept, entered: asyncio.Future[None]) -> Answer:
        """Read a response, and join it again if it goes on for another gateway that had less of it.

        Raises:
            LlmError: the response failed.
        """
        joins = 0
        while True:
            try:
                return await self._read_once(kept, entered)
            except Interrupted:
                record = await self._door.record_of(kept.request_id)
                if joins == _MOST_JOINS or record is None or record.state not in _GO_ON:
                    raise
            joins += 1
            kept.stream = self._door.client.attach(kept.request_id)

    async def _read_once(self, kept: Kept, entered: asyncio.Future[None]) -> Answer:
        async with kept.stream as stream:
            if not entered.done():
                kept.accepted()
                self._running[kept.request_id] = kept
                entered.set_result(None)
            rest = Rest(kept.deltas)
            try:
                async with background() as tasks:
                    tasks.create_task(self._keep_owning(kept))
                    while batch := await stream.batch():
                        if new := rest.of(batch):
                            kept.add(new)
                    answer = await stream.answer()
            except asyncio.CancelledError:
                stream.let_go()  # this gateway stops, and another may go on
                raise
            rest.check_end()
            return answer

    async def _keep_owning(self, kept: Kept) -> None:
        while True:
            await asyncio.sleep(_TAKE_OVER_S)
            try:
                await kept.stream.take_over()
            except LlmError:
                pass  # the pool is away: the next time
            except Exception as error:  # a bug here must not end the answer
                self._door.client.link.internal_errors.record("gateway", error)

    def _finish(self, kept: Kept, ended: Answer | Failure) -> None:
        kept.end(ended)
        if self._running.get(kept.request_id) is kept:  # another reader may have joined the same response
            del self._running[kept.request_id]
            self._ended.put(kept.request_id, kept, kept.size)


def _unknown(*, had: bool) -> Refused:
    if had:
        most = MOST_BYTES // 2**20
        message = f"The response is gone: answers are kept in memory for {KEEP_S / 60:g} minutes, within {most} MiB."
        return Refused(404, "response_expired", f"{message} Send the request again.")
    return Refused(404, "response_not_found", "No response in the background has this id: check the id and the key.")
