"""The client: an agent's link to a pool."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, nullcontext, suppress
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Self, TypeAlias, Unpack

from tokenlane.config.exit_codes import ConfigError
from tokenlane.config.host.pool_key_files import KeyRing
from tokenlane.config.settings.find_pool import Place, find_place
from tokenlane.config.settings.values import NAME_RULE, is_name
from tokenlane.routing.contract.errors import LlmError, PoolUnavailable
from tokenlane.routing.contract.messages import Answer, ChatOptions, ModelInfo, Parsed, Progress, new_id
from tokenlane.routing.store.hub import open_hub
from tokenlane.routing.store.pool import connect
from tokenlane.routing.support.tasks import background, keep_going

from .compose import Messages, compose, compose_embed, refuse_unknown, texts_of
from .embeddings import Embeddings, EmbedOptions, Spaces, embed, refuse_unknown_of_embed
from .link.heartbeat import Heartbeat
from .link.open_request import OpenRequest
from .link.redis_link import RedisLink
from .models import Models
from .response_format import Form, asked_for
from .stream import ChatStream

__all__ = ["Client", "Keys"]

Keys: TypeAlias = str | Sequence[str] | KeyRing | None
"""Keys of a pool, the newest first; None gives none."""

_REQUEST_ID = re.compile(r"[0-9a-f]{32}")
_PATIENCE_S = 10.0  # for a server that is away when something is asked
_NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9_.@-]+")


class Client:
    """An async context manager. All its streams share one pub/sub connection.

    Args:
        url: the pool's Redis, `redis://`, `rediss://` or `unix://`. Without one the pool is found as the command line
            finds it: TOKENLANE_REDIS_URL, llm.toml, this user's running `tokenlane up`; the last two with the extra
            [cli] alone. With one nothing is read from the environment.
        pool: the pool's name. Default: `main`, or that of the pool found.
        agent: who asks; agents of one role take turns. Default: host and process id.
        key: the pool's key, as `tokenlane key show --reveal` prints it; several, the newest first, while keys change.
            Default: the one beside the server's unix socket, if the URL names one.

    Leaving the block cancels what still runs.

    Raises:
        TypeError: `url` is no text, or empty.
        ValueError: `agent` or `pool` is not a name, or `key` not a key.
        PoolUnavailable: there is no URL, and no pool is found; it says what to do.

    Raises, entered:
        PoolUnavailable: nothing answers at the URL, or not a Redis server, or it wants a password.
        PoolKeyMismatch: the pool is sealed with another key.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        pool: str | None = None,
        agent: str | None = None,
        key: Keys = (),
    ) -> None:
        text: object = url  # not everybody checks types
        if text is not None and not (isinstance(text, str) and text):
            given = "empty" if isinstance(text, str) else f"of type {type(text).__name__}"
            raise TypeError(f"`url` is {given}: give text like redis://HOST:6379, or nothing to have a pool found")
        keys = key if isinstance(key, KeyRing) else _parsed([key] if isinstance(key, str) else key or ())
        if url is None:
            place = _found()
            url, keys = place.redis.url, keys if keys.keys else place.redis.keys
            pool = place.pool if pool is None else pool
        pool = "main" if pool is None else pool
        self.agent = _default_agent() if agent is None else agent
        for name in (self.agent, pool):
            if not is_name(name):
                raise ValueError(f"{name!r} is not a name: {NAME_RULE}")
        self._connect: Callable[[str], AbstractAsyncContextManager[RedisLink]] = partial(_connection, url, pool, keys)
        self._pool_name = pool
        self._id = ""
        self._link: RedisLink | None = None
        self._spaces = Spaces()
        self._stack = AsyncExitStack()

    def __repr__(self) -> str:
        return f"<Client of agent {self.agent!r}, pool {self._pool_name!r}>"

    def chat(
        self, messages: Messages, *, role: str, response_format: Form[Parsed] = None, **options: Unpack[ChatOptions]
    ) -> ChatStream[Parsed]:
        """Ask for an answer, as a stream. Nothing is sent before the stream is entered.

        Args:
            messages: one question, or a conversation.
            role: what the pool routes by.
            response_format: what the answer is to look like: a pydantic model, which then is the answer's `parsed`, or
                a `response_format` in OpenAI's shape.
            options: see `ChatOptions`; what is left out is the back end's default.
        """
        refuse_unknown(options)
        link = self._entered()
        request_id = link.ahead.take()
        form = response_format if isinstance(response_format, type) else None
        shape = asked_for(response_format) if isinstance(response_format, type) else response_format

        async def submit() -> OpenRequest:
            async with link.turn() as asked_at:
                composed = compose(request_id, messages, role, options, shape, agent=self.agent, client=self._id)
                return await link.open(*composed, options.get("idempotency_key"), asked_at)

        return ChatStream(request_id, link, submit, form, options.get("metadata"))

    def attach(self, request_id: str, *, after: int | None = None) -> ChatStream:
        """Join a request that this agent or another sent, in this process or another, while it runs and up to a minute
        after its end. Whoever attaches last owns the request: others go on reading, but leaving cancels nothing. If the
        owner leaves, or dies without anybody attaching within the pool's orphan time, the request is cancelled.

        Args:
            request_id: as a stream's `request_id` says.
            after: the `position` of the last delta this agent has; None for the whole answer.

        Returns:
            A stream of everything after that position. Its text is that of what it streams.

        Raises, once entered:
            RequestLost: the pool does not know the request.
            BadRequest: the answer has ended before that position.

        Raises, iterated:
            BadRequest: the answer ended, later, before that position.
            Interrupted: the answer has ended, and no worker has it any more.
        """
        link, position = self._entered(), 0 if after is None else after + 1
        if not _REQUEST_ID.fullmatch(request_id) or position < 0:
            raise ValueError("`request_id` is what a stream's `.request_id` says, `after` the `.position` of a delta")

        async def join() -> OpenRequest:
            return await link.attach(request_id, position)

        return ChatStream(request_id, link, join)

    async def cancel(self, request_id: str) -> bool:
        """Cancel a request, whoever sent or reads it.

        Returns:
            Whether it is cancelled, or will be as soon as its worker has closed the back end's stream; False if it has
            ended otherwise, or the pool does not know it.

        Raises:
            PoolUnavailable: the pool's server does not answer.
        """
        return await self._entered().cancel(request_id)

    async def embed(
        self,
        texts: str | Sequence[str],
        *,
        role: str,
        allow_other_models: bool = False,
        **options: Unpack[EmbedOptions],
    ) -> Embeddings:
        """Turn a text, or several, into vectors.

        Args:
            texts: 2048 at most, whose vectors have 16 MiB at most.
            role: what the pool routes by.
            allow_other_models: take the vectors also if, asked the same before, another model gave them.
            options: see `EmbedOptions`.

        Raises:
            BadRequest: the request is not valid, or too much for one reply.
            SpaceMismatch: the vectors are of another model than those before.
            LlmError: what else it failed with.
        """
        return await self._embed(texts, role, options, allow_other_models=allow_other_models)

    async def _embed(
        self,
        texts: str | Sequence[str],
        role: str,
        options: EmbedOptions,
        *,
        allow_other_models: bool = False,
        meanwhile: Callable[[OpenRequest], AbstractAsyncContextManager[None]] = lambda _: nullcontext(),
    ) -> Embeddings:
        refuse_unknown_of_embed(options)
        link = self._entered()
        asked = {"id": new_id(), "role": role, "inputs": texts_of(texts), **options}
        composed = compose_embed(asked, agent=self.agent, client=self._id)
        found = await embed(link, *composed, options.get("idempotency_key"), meanwhile)
        found = replace(found, metadata=options.get("metadata"))
        self._spaces.check(found, role, options, allow_other_models=allow_other_models)
        return found

    async def models(self, *, lane: str | None = None) -> list[ModelInfo]:
        """The models of all open lanes, or of one. Of a lane that is busy with a command, or fails where all are asked,
        what it has announced.

        Raises:
            LlmError: the lane that is named does not answer, or none is open.
        """
        return await self._models().listed(lane)

    def pull(self, model: str, *, lane: str | None = None) -> AsyncGenerator[Progress, None]:
        """Have a lane fetch a model: how far it is, until the model is there. Nothing is sent before it is iterated;
        breaking off the iteration cancels the pull, unless others wait for the same one.

        Args:
            model: as the lane's provider names it.
            lane: which; may be left out where only one is open.

        Raises, iterated:
            ModelNotFound: nobody has it.
            DigestMismatch: what came is not what was announced or pinned.
            BadRequest: the lane's provider cannot pull; it says what to do instead.
            LlmError: what else it failed with.
        """
        return self._models().follow("pull", model, lane)

    async def verify(self, model: str, *, lane: str | None = None) -> ModelInfo:
        """Have a lane compute or look up a model's digest.

        Raises:
            DigestMismatch: it is not the one that is pinned, or its files have changed.
            LlmError: as `pull`.
        """
        return await self._models().verify(model, lane)

    async def load(self, model: str, *, lane: str | None = None) -> None:
        """Have a lane load a model into memory; returns when it answers at once. Raises as `verify`."""
        await self._models().do("load", model, lane)

    async def unload(self, model: str, *, lane: str | None = None) -> None:
        """Have a lane free a model's memory. Raises as `pull`."""
        await self._models().do("unload", model, lane)

    @property
    def internal_errors(self) -> int:
        """How many bugs of tokenlane's the client's tasks have survived; the log says where each was."""
        return self._entered().internal_errors.count

    async def complete(
        self, messages: Messages, *, role: str, response_format: Form[Parsed] = None, **options: Unpack[ChatOptions]
    ) -> Answer[Parsed]:
        """Ask for an answer, whole. Takes and raises what `chat` and its stream do.

        Raises:
            SchemaMismatch: the answer is not in the form of the model given as `response_format`.
        """
        async with self.chat(messages, role=role, response_format=response_format, **options) as stream:
            return await stream.answer()

    async def __aenter__(self) -> Self:
        if self._link is not None:
            raise RuntimeError("the client is connected already: enter it once, and share it")
        self._id = new_id()
        self._link = await self._stack.enter_async_context(self._connect(self._id))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        self._link = None
        return await self._stack.__aexit__(kind, error, trace)

    def _models(self) -> Models:
        return Models(self._entered(), self.agent, self._id)

    def _entered(self) -> RedisLink:
        if self._link is None:
            raise RuntimeError("the client is not connected: use `async with Client(url) as client`")
        return self._link


@asynccontextmanager
async def _connection(url: str, pool_name: str, keys: KeyRing, client: str) -> AsyncIterator[RedisLink]:
    async with connect(url, pool_name, keys=keys) as pool, open_hub(pool, _PATIENCE_S) as hub:
        told = False
        try:
            async with background() as requests:
                link = RedisLink(pool, hub, requests, client)
                heartbeat = Heartbeat(pool, link, client)
                await heartbeat.beat()
                try:
                    async with background() as beats:
                        for name, work in {
                            "subscriptions": link.subscribe_ahead,
                            "messages to workers": link.speak,
                            "client beat": heartbeat.run,
                        }.items():
                            beats.create_task(keep_going(name, work, pool.internal_errors), name=f"tokenlane {name}")
                        yield link
                finally:
                    told = await link.close_all()
        finally:
            # Who could not cancel all its requests stays listed, so that they are found to be orphans.
            if told:
                with suppress(LlmError):
                    await pool.beats.leave(client)


def _found() -> Place:
    try:
        return find_place()
    except ConfigError as error:
        raise PoolUnavailable(str(error)) from None


def _parsed(keys: Sequence[str]) -> KeyRing:
    if not all(map(str.strip, keys)):
        raise ValueError("`key` is empty: give the pool's key, or None where it has none")
    return KeyRing.parse(*keys)


def _default_agent() -> str:
    return _NOT_IN_A_NAME.sub("-", f"{socket.gethostname()}-{os.getpid()}")[-128:].lstrip("_.@-")
