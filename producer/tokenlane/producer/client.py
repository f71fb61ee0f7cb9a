"""The client: an agent's link to a pool."""

from __future__ import annotations

import os
import re
import reprlib
import socket
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Self, TypeAlias, Unpack

from tokenlane.config.exit_codes import ConfigError
from tokenlane.config.host.pool_key_files import KeyRing
from tokenlane.config.settings.client_pool import pool_of_client
from tokenlane.config.settings.values import NAME_RULE, is_name
from tokenlane.routing.contract.answers import Answer, Parsed
from tokenlane.routing.contract.errors import PoolUnavailable
from tokenlane.routing.contract.requests import ChatOptions
from tokenlane.routing.contract.results import ModelInfo, Progress

from .compose import Messages, compose, refuse_unknown
from .embeddings import Embeddings, EmbedOptions, embed
from .link.link import Composed, Link, OpenLink
from .link.open_request import OpenRequest
from .link.redis.connect import redis_link
from .models import Models
from .response_format import Form, asked_for
from .stream import ChatStream

Keys: TypeAlias = str | Sequence[str] | KeyRing | None
"""Keys of a pool, the newest first; None gives none."""

_REQUEST_ID = re.compile(r"[0-9a-f]{32}")
_NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9_.@-]+")


class Client:
    """An async context manager. All its streams share one pub/sub connection.

    Args:
        url: the pool's Redis, `redis://`, `rediss://` or `unix://`. Without one the pool is found as the command line
            finds it: TOKENLANE_REDIS_URL, llm.toml, this user's running `tokenlane up`; the last two with the extra
            [cli] alone. With one nothing is read from the environment.
        pool: the pool's name. Default: `main`, or that of the pool found.
        agent: who asks, where a call does not say who; agents of one role take turns. Default: host and process id.
        key: the pool's key, as `tokenlane key show --reveal` prints it; several, the newest first, while keys change.
            Default: the one beside the server's unix socket, if the URL names one.
        link: opens a link to use in place of one to `url`, `pool` and `key`.

    Leaving the block cancels what still runs.

    Raises:
        TypeError: `url` is no text, or empty; `key` is no text, nor several.
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
        link: OpenLink | None = None,
    ) -> None:
        self.agent = _default_agent() if agent is None else _name(agent)
        if link is None:
            url, pool, keys = _pool(url, pool, key)
            link = redis_link(url, pool, keys)
        self._pool_name = pool or "main"
        self._open_link = link
        self._link: Link | None = None
        self._stack = AsyncExitStack()

    def __repr__(self) -> str:
        return f"<Client of agent {self.agent!r}, pool {self._pool_name!r}>"

    @property
    def link(self) -> Link:
        """What connects it to its pool, while it is entered."""
        if self._link is None:
            raise RuntimeError("the client is not connected: use `async with Client(url) as client`")
        return self._link

    def chat(
        self,
        messages: Messages,
        *,
        role: str,
        agent: str | None = None,
        response_format: Form[Parsed] = None,
        **options: Unpack[ChatOptions],
    ) -> ChatStream[Parsed]:
        """Ask for an answer, as a stream. Nothing is sent before the stream is entered.

        Args:
            messages: one question, or a conversation.
            role: what the pool routes by.
            agent: who asks; the client's agent, if left out. Turns, limits and idempotency keys are an agent's.
            response_format: what the answer is to look like: a pydantic model, which then is the answer's `parsed`, or
                a `response_format` in OpenAI's shape.
            options: see `ChatOptions`; what is left out is the back end's default.

        Raises:
            TypeError: there is no such option.
            ValueError: `agent` is not a name.
        """
        refuse_unknown(options, ChatOptions)
        who = self._name_of(agent)
        link = self.link
        request_id = link.take_id()
        form = response_format if isinstance(response_format, type) else None
        shape = asked_for(response_format) if isinstance(response_format, type) else response_format

        def composed() -> Composed:
            return compose(request_id, messages, role, options, shape, agent=who, client=link.client)

        async def submit() -> OpenRequest:
            return await link.open(composed, options.get("idempotency_key"))

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

        Raises:
            ValueError: `request_id` is no request's id, or `after` no position.

        Raises, once entered:
            RequestLost: the pool does not know the request.
            BadRequest: the answer has ended before that position.

        Raises, iterated:
            BadRequest: the answer ended, later, before that position.
            Interrupted: the answer has ended, and no worker has it any more.
        """
        link = self.link
        name: object = request_id  # not everybody checks types
        known = isinstance(name, str) and _REQUEST_ID.fullmatch(name) is not None
        position = _position(after)
        if not known or position < 0:
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
        return await self.link.cancel(request_id)

    async def embed(
        self,
        texts: str | Sequence[str],
        *,
        role: str,
        agent: str | None = None,
        **options: Unpack[EmbedOptions],
    ) -> Embeddings:
        """Turn a text, or several, into vectors.

        Args:
            texts: 2048 at most, whose vectors have 16 MiB at most.
            role: what the pool routes by.
            agent: who asks; the client's agent, if left out.
            options: see `EmbedOptions`.

        Raises:
            ValueError: `agent` is not a name.
            BadRequest: the request is not valid, or too much for one reply.
            LlmError: what else it failed with.
        """
        return await embed(self.link, texts, options, role=role, agent=self._name_of(agent))

    async def models(self, *, lane: str | None = None) -> list[ModelInfo]:
        """The models of all open lanes, or of one. Of a lane that is busy with a command, or fails where all are asked,
        what it has announced.

        Raises:
            LlmError: the lane that is named does not answer, or none is open.
        """
        return await Models(self.link, self.agent).listed(lane)

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
        return Models(self.link, self.agent).follow("pull", model, lane)

    async def verify(self, model: str, *, lane: str | None = None) -> ModelInfo:
        """Have a lane compute or look up a model's digest.

        Raises:
            DigestMismatch: it is not the one that is pinned, or its files have changed.
            LlmError: as `pull`.
        """
        return await Models(self.link, self.agent).verify(model, lane)

    async def load(self, model: str, *, lane: str | None = None) -> None:
        """Have a lane load a model into memory; returns when it answers at once. Raises as `verify`."""
        await Models(self.link, self.agent).do("load", model, lane)

    async def unload(self, model: str, *, lane: str | None = None) -> None:
        """Have a lane free a model's memory. Raises as `pull`."""
        await Models(self.link, self.agent).do("unload", model, lane)

    @property
    def internal_errors(self) -> int:
        """How many bugs of tokenlane's the client's tasks have survived; the log says where each was."""
        return self.link.internal_errors.count

    async def complete(
        self,
        messages: Messages,
        *,
        role: str,
        agent: str | None = None,
        response_format: Form[Parsed] = None,
        **options: Unpack[ChatOptions],
    ) -> Answer[Parsed]:
        """Ask for an answer, whole. Takes and raises what `chat` and its stream do.

        Raises:
            SchemaMismatch: the answer is not in the form of the model given as `response_format`.
        """
        stream = self.chat(messages, role=role, agent=agent, response_format=response_format, **options)
        async with stream:
            return await stream.answer()

    async def __aenter__(self) -> Self:
        if self._link is not None:
            raise RuntimeError("the client is connected already: enter it once, and share it")
        self._link = await self._stack.enter_async_context(self._open_link())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        self._link = None
        return await self._stack.__aexit__(kind, error, trace)

    def _name_of(self, agent: str | None) -> str:
        return self.agent if agent is None else _name(agent)


def _pool(url: object, pool: object, key: object) -> tuple[str, str, KeyRing]:
    """Where the pool is, its name, and its keys."""
    if url is not None and not (isinstance(url, str) and url):
        given = "empty" if isinstance(url, str) else f"of type {type(url).__name__}"
        raise TypeError(f"`url` is {given}: give text like redis://HOST:6379, or nothing to have a pool found")
    keys = _keys(key)
    if isinstance(url, str):
        return url, _name("main" if pool is None else pool), keys
    try:
        redis, name = pool_of_client()
    except ConfigError as error:
        raise PoolUnavailable(str(error)) from None
    return redis.url, _name(name if pool is None else pool), keys if keys.keys else redis.keys


def _keys(key: object) -> KeyRing:
    if isinstance(key, KeyRing):
        return key
    texts = [key] if isinstance(key, str) else [] if key is None else key
    if not isinstance(texts, Sequence) or not all(isinstance(text, str) for text in texts):
        raise TypeError(f"`key` is of type {type(key).__name__}: give the pool's key as text, or a list of several")
    if not all(map(str.strip, texts)):
        raise ValueError("`key` is empty: give the pool's key, or None where it has none")
    return KeyRing.parse(*texts)


def _position(after: object) -> int:
    """The one after this; -1 if it is none."""
    if after is None:
        return 0
    return after + 1 if isinstance(after, int) else -1


def _name(name: object) -> str:
    if not (isinstance(name, str) and is_name(name)):
        raise ValueError(f"{reprlib.repr(name)} is not a name: {NAME_RULE}")
    return name


def _default_agent() -> str:
    return _NOT_IN_A_NAME.sub("-", f"{socket.gethostname()}-{os.getpid()}")[-128:].lstrip("_.@-")
