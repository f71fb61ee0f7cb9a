"""Passes a client's chats through its hooks: requests before they are sealed, answers before the agent reads them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from functools import partial

from tokenlane.routing.contract.answers import TokenDelta, Usage
from tokenlane.routing.contract.errors import LlmError, RequestCancelled
from tokenlane.routing.contract.requests import ChatRequest
from tokenlane.routing.decide.lanes.offer import LaneView
from tokenlane.routing.decide.queue_place import QueuePlace
from tokenlane.routing.hooks.functions import NO_HOOKS, Hooks, RequestHook, TokenHook
from tokenlane.routing.hooks.request_hook import change_request
from tokenlane.routing.hooks.token_hook import filter_deltas
from tokenlane.routing.support.tasks import background

from .compose import compose_chat
from .link.link import Composed, Link, OpenLink
from .link.open_request import OpenRequest


def with_hooks(open_link: OpenLink, hooks: Hooks) -> OpenLink:
    """Return a function that opens the same link, with hooks for its chats if there are any."""
    if hooks == NO_HOOKS:
        return open_link

    @asynccontextmanager
    async def open_hooked() -> AsyncIterator[Link]:
        async with open_link() as link, background() as tasks:
            yield HookedLink(link, hooks, tasks)

    return open_hooked


class HookedLink:
    """A `Link` whose chats pass through hooks. Other requests do not.

    Args:
        tasks: the group in which each filtered answer gets a task.
    """

    def __init__(self, link: Link, hooks: Hooks, tasks: asyncio.TaskGroup) -> None:
        self.client, self.pool, self.internal_errors = link.client, link.pool, link.internal_errors
        self._link, self._hooks, self._tasks = link, hooks, tasks

    async def open(
        self, compose: Callable[[], Composed], idempotency_key: str | None = None, *, may_restart: bool = False
    ) -> OpenRequest:
        if self._hooks.request is not None:
            compose, idempotency_key, may_restart = await _changed(
                self._hooks.request, compose(), idempotency_key, may_restart
            )
        is_chat = False

        def compose_and_note() -> Composed:
            nonlocal is_chat
            composed = compose()
            is_chat = composed[0].kind == "chat"
            return composed

        request = await self._link.open(compose_and_note, idempotency_key, may_restart=may_restart)
        return self._filtered(request, may_restart) if is_chat else request

    async def attach(self, request_id: str, position: int = 0, *, may_restart: bool = False) -> OpenRequest:
        return self._filtered(await self._link.attach(request_id, position, may_restart=may_restart), may_restart)

    async def cancel(self, request_id: str) -> bool:
        return await self._link.cancel(request_id)

    def leave(self, request: OpenRequest, *, everywhere: bool = False) -> None:
        self._link.leave(_stopped(request), everywhere=everywhere)

    async def close(self, request: OpenRequest, *, everywhere: bool = False) -> None:
        await self._link.close(_stopped(request), everywhere=everywhere)

    async def take_over(self, request: OpenRequest) -> None:
        await self._link.take_over(_unfiltered(request))

    def let_go(self, request: OpenRequest) -> None:
        self._link.let_go(_stopped(request))

    async def lanes(self) -> tuple[LaneView, ...]:
        return await self._link.lanes()

    def _filtered(self, request: OpenRequest, may_restart: bool) -> OpenRequest:
        hook = self._hooks.token
        if hook is None:
            return request
        filtered = FilteredRequest(request, may_restart=may_restart)
        filtered.task = self._tasks.create_task(filtered.run(hook, self._link), name="tokenlane token hook")
        # Whatever ends the task, the reader must not wait any longer. This has no effect on an answer that has ended.
        filtered.task.add_done_callback(lambda _: filtered.give_up(RequestCancelled()))
        return filtered


async def _changed(
    hook: RequestHook, composed: Composed, idempotency_key: str | None, may_restart: bool
) -> tuple[Callable[[], Composed], str | None, bool]:
    """The arguments of `Link.open` for a request as the hook changes it."""
    envelope, payload = composed
    if envelope.kind != "chat":
        return lambda: composed, idempotency_key, may_restart
    try:
        request = await change_request(hook, ChatRequest.model_validate_json(payload))
    except LlmError as error:
        error.at(request_id=envelope.id)
        raise
    fields = request.model_dump(exclude_unset=True)
    compose = partial(compose_chat, fields, agent=envelope.agent, client=envelope.client, quota=envelope.quota)
    return compose, request.idempotency_key, request.on_interrupt == "restart"


def _unfiltered(request: OpenRequest) -> OpenRequest:
    """The request that a filtered request reads."""
    return request.unfiltered if isinstance(request, FilteredRequest) else request


def _stopped(request: OpenRequest) -> OpenRequest:
    """End a filtered request, and return the request that it reads."""
    if not isinstance(request, FilteredRequest):
        return request
    request.give_up(RequestCancelled())
    if request.task is not None:
        request.task.cancel()
    return request.unfiltered


class _BegunAnew(Exception):
    """The answer begins anew with this delta."""

    def __init__(self, delta: TokenDelta) -> None:
        super().__init__()
        self.delta = delta


class FilteredRequest(OpenRequest):
    """A chat whose answer passes through a token hook, as `run` reads it from the link.

    Attributes:
        unfiltered: the request that the link opened.
        task: the task of `run`.
    """

    def __init__(self, unfiltered: OpenRequest, *, may_restart: bool) -> None:
        super().__init__(unfiltered.id, may_restart=may_restart)
        self.unfiltered = unfiltered
        self.task: asyncio.Task[None] | None = None
        self._read = 0

    @property
    def waiting(self) -> str | None:
        return self.unfiltered.waiting

    @property
    def place(self) -> QueuePlace | None:
        return self.unfiltered.place

    async def run(self, hook: TokenHook, link: Link) -> None:
        """Filter the answer until it ends, and then leave the request, which cancels it if the hook ended the answer
        early. If the answer begins anew, so does the hook."""
        first: TokenDelta | None = None
        try:
            while True:
                try:
                    await self._filter(hook, first)
                    break
                except _BegunAnew as anew:
                    first = anew.delta
                    self._read = int(bool(first.text or first.reasoning))
                    self._buffer.begin_anew(first.attempt)
            self._buffer.complete(self.unfiltered.usage or Usage(completion_tokens=self._read))
            self._changed.set()
        except LlmError as error:
            self.give_up(error)
        except Exception as error:
            link.internal_errors.record("filter of an answer", error)
            self.give_up(LlmError("The answer could not be read, which is a bug in tokenlane."))
        finally:
            link.leave(self.unfiltered)

    async def _filter(self, hook: TokenHook, first: TokenDelta | None) -> None:
        async with aclosing(filter_deltas(hook, self._deltas(first))) as output:
            async for delta in output:
                self._buffer.add(delta)
                self._changed.set()
                if self.ended:
                    return

    async def _deltas(self, first: TokenDelta | None) -> AsyncGenerator[TokenDelta, None]:
        """The deltas from the link, up to the next beginning of the answer.

        Args:
            first: the delta with which the answer began anew, if it did.
        """
        if first is not None:
            yield first
        while (delta := await self.unfiltered.next()) is not None:
            if delta.restarted:
                raise _BegunAnew(delta)
            self._read += bool(delta.text or delta.reasoning)
            yield delta
