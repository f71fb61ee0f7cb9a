"""The asynchronous client, through which agents send requests to a pool."""

from __future__ import annotations

import os
import re
import reprlib
import socket
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack
from functools import partial
from types import TracebackType
from typing import Literal, Self, TypeAlias, Unpack

from tokenlane.config.exit_codes import ConfigError
from tokenlane.config.host.pool_key_files import KeyRing
from tokenlane.config.settings.client_pool import keys_of_client, pool_of_client
from tokenlane.config.settings.values import NAME_RULE, is_name
from tokenlane.routing.contract.answers import Answer, Parsed
from tokenlane.routing.contract.envelope import Quota
from tokenlane.routing.contract.errors import PoolUnavailable
from tokenlane.routing.contract.requests import ChatOptions
from tokenlane.routing.contract.results import ModelInfo, Progress
from tokenlane.routing.contract.wire import new_id
from tokenlane.routing.hooks.functions import Hooks, RequestHook, TokenHook

from .compose import Messages, refuse_unknown
from .conversation.conversation import Conversation, open_conversation
from .conversation.options import ConversationOptions
from .embeddings import Embeddings, EmbedOptions, embed
from .hooked_link import with_hooks
from .link.link import Link, OpenLink
from .link.redis.connect import redis_link
from .models import Models
from .response_format import ResponseFormat, to_openai_format
from .stream import ChatStream, open_chat

PoolKeys: TypeAlias = str | Sequence[str] | KeyRing | None
"""A pool's key, or several keys, the newest first; an empty sequence for a pool without a key; None: look for it."""

_REQUEST_ID = re.compile(r"[0-9a-f]{32}")
_NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9_.@-]+")


class Client:
    """The asynchronous client: an async context manager. Leaving its block cancels the requests that still run.

    All requests of a client share one pub/sub connection.

    Args:
        url: the URL of the pool's Redis server: `redis://`, `rediss://`, `unix://`, or with Sentinels
            `redis+sentinel://HOST:PORT,HOST:PORT/SERVICE` or `rediss+sentinel://`. Without a URL the client looks
            for the pool as the command line does: in TOKENLANE_REDIS_URL, in llm.toml, and in this user's running
            `tokenlane up`, in this order.
        pool: the pool's name. Default: the name in the settings that gave the URL, or `main`.
        agent: the agent's name, for calls that name no agent. Agents of one role take turns. Default: host name and
            process id.
        key: the pool's key, as `tokenlane key show --reveal` prints it; during a key rotation a list of keys, the
            newest first, or an empty list for a pool without a key. Default: TOKENLANE_POOL_KEY, else the key file that
            llm.toml names, else the one next to the server's unix socket.
        link: a function that opens another link, to use in place of `url`, `pool` and `key`.
        token_hook, request_hook: functions through which answers and requests of all chats pass; see docs/hooks.md.

    Raises:
        TypeError: `url` is empty or no string; `key` is neither a string nor a list of strings; a hook is no function.
        ValueError: `agent` or `pool` is not a valid name, or `key` not a valid key.
        PoolUnavailable: there is no URL, and the client finds no pool; or a setting that it reads is wrong.

    Raises, when entered:
        PoolUnavailable: no Redis server answers at the URL, or the server requires a password.
        PoolKeyMismatch: the pool is sealed with another key.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        pool: str | None = None,
        agent: str | None = None,
        key: PoolKeys = None,
        link: OpenLink | None = None,
        token_hook: TokenHook | None = None,
        request_hook: RequestHook | None = None,
    ) -> None:
        self.agent = _default_agent() if agent is None else _name(agent)
        if link is None:
            url, pool, keys = _pool(url, pool, key)
            link = redis_link(url, pool, keys)
        self._pool_name = pool or "main"
        self._open_link = with_hooks(link, Hooks(token_hook, request_hook))
        self._link: Link | None = None
        self._stack = AsyncExitStack()

    def __repr__(self) -> str:
        return f"<Client of agent {self.agent!r}, pool {self._pool_name!r}>"

    @property
    def link(self) -> Link:
        """The client's connection to its pool, inside the block."""
        if self._link is None:
            raise RuntimeError("the client is not connected: use `async with Client(url) as client`")
        return self._link

    def chat(
        self,
        messages: Messages,
        *,
        role: str,
        agent: str | None = None,
        quota: Quota | None = None,
        response_format: ResponseFormat[Parsed] = None,
        **options: Unpack[ChatOptions],
    ) -> ChatStream[Parsed]:
        """Return a stream of a chat's answer. Entering the stream sends the request.

        Args:
            messages: a question, or a conversation.
            role: the role by which the pool routes the request.
            agent: the agent's name; default: the client's agent. Fairness, limits and idempotency keys are per agent.
            quota: a limit against which the request counts besides the policy's limits.
            response_format: a pydantic model, or a `response_format` dict as in OpenAI's API. With a pydantic model,
                the answer's `parsed` is an instance of the model.
            options: see `ChatOptions`. For options that are not set, the model server uses its defaults.

        Raises:
            TypeError: an option does not exist, or `response_format` is neither a pydantic model nor a dict.
            ValueError: `agent` is not a valid name.
        """
        refuse_unknown(options, ChatOptions, "agent", "quota", "response_format")
        who, shape = self._name_of(agent), to_openai_format(response_format)
        model = response_format if isinstance(response_format, type) else None
        link, request_id = self.link, new_id()
        submit = partial(open_chat, link, request_id, messages, options, shape, role=role, agent=who, quota=quota)
        return ChatStream(request_id, link, submit, model, options.get("metadata"))

    def conversation(
        self, *, role: str, agent: str | None = None, **options: Unpack[ConversationOptions]
    ) -> Conversation:
        """Return a conversation, which asks each question with everything that was said before.

        Args:
            role, agent: as in `chat`.
            options: see `ConversationOptions`.

        Raises:
            TypeError: an option does not exist.
            ValueError: an option has a wrong value, or `agent` is not a valid name.
        """
        return open_conversation(self.link, options, role=role, agent=self._name_of(agent))

    def attach(
        self, request_id: str, *, after: int | None = None, on_interrupt: Literal["error", "restart"] = "error"
    ) -> ChatStream:
        """Join a request that another agent or process sent, while it runs and up to a minute after its end.

        The client that attached last owns the request. The other clients keep reading, and may leave without cancelling
        it. The request is cancelled if its owner leaves, or if the owner dies and no client attaches within the pool's
        orphan timeout.

        Args:
            request_id: the `request_id` of the request's stream.
            after: the `position` of the last delta that this agent has received; None for the whole answer.
            on_interrupt: what the stream does if the answer begins anew, which the request itself must allow. "error":
                the stream raises `Interrupted`, unless it has received nothing. "restart": the stream goes on with the
                first delta of the new answer, which has `restarted=True`; all text before it is void.

        Returns:
            A stream of all deltas after that position. Its `text` has only the text of these deltas.

        Raises:
            ValueError: `request_id` is not the id of a request, `after` is not a position, or `on_interrupt` is neither
                of the two words.

        Raises, when the stream is entered:
            RequestLost: the pool does not know the request.
            BadRequest: the answer has ended before that position.

        Raises, when the stream is iterated:
            BadRequest: the answer ended before that position while the client was reading.
            Interrupted: the answer has ended, and no worker can publish it again.
        """
        given: object = request_id  # not everybody checks types
        place: object = after
        position = 0 if place is None else place + 1 if isinstance(place, int) else -1
        if not (isinstance(given, str) and _REQUEST_ID.fullmatch(given)) or position < 0:
            raise ValueError("`request_id` must be a stream's `.request_id`, and `after` a delta's `.position`")
        if on_interrupt not in ("error", "restart"):
            raise ValueError('`on_interrupt` must be "error" or "restart"')
        join = partial(self.link.attach, request_id, position, may_restart=on_interrupt == "restart")
        return ChatStream(request_id, self.link, join)

    async def cancel(self, request_id: str) -> bool:
        """Cancel a request for all clients that read it.

        Returns:
            True if the request is cancelled, or will be as soon as its worker has closed the model server's stream.
            False if the request has ended in another way, or the pool does not know it.

        Raises:
            PoolUnavailable: the pool's Redis server does not answer.
        """
        return await self.link.cancel(request_id)

    async def embed(
        self,
        texts: str | Sequence[str],
        *,
        role: str,
        agent: str | None = None,
        quota: Quota | None = None,
        **options: Unpack[EmbedOptions],
    ) -> Embeddings:
        """Turn one or more texts into vectors.

        Args:
            texts: at most 2048 texts, whose vectors have at most 16 MiB in all.
            role: the role by which the pool routes the request.
            agent, quota: as in `chat`.
            options: see `EmbedOptions`.

        Raises:
            TypeError: an option does not exist.
            ValueError: `agent` is not a valid name.
            BadRequest: the request is not valid, or its vectors are too large for one message.
            LlmError: the request failed.
        """
        return await embed(self.link, texts, options, role=role, agent=self._name_of(agent), quota=quota)

    async def models(self, *, lane: str | None = None) -> list[ModelInfo]:
        """List the models of all open lanes, or of one lane.

        If a lane is busy with another command, the models that it announced are returned instead, without digests and
        sizes. In a list of all lanes the same happens for a lane that fails or does not answer within two seconds.

        Raises:
            LlmError: the named lane fails, does not answer, or has no worker; or no lane is open.
        """
        return await Models(self.link, self.agent).list_models(lane)

    def pull(self, model: str, *, lane: str | None = None) -> AsyncGenerator[Progress, None]:
        """Pull a model onto a lane, and yield the progress until the model is ready.

        The first iteration sends the command. Closing the iterator early cancels the pull, unless another caller waits
        for the same model.

        Args:
            model: the model's name, as the lane's provider writes it.
            lane: the lane's name; only needed if several lanes are open.

        Raises, when the iterator is advanced:
            ModelNotFound: the model does not exist.
            DigestMismatch: the digest of the download differs from the announced or the pinned digest.
            BadRequest: the lane's provider cannot pull models; the message says what to do instead.
            LlmError: the pull failed.
        """
        return Models(self.link, self.agent).follow("pull", model, lane)

    async def verify(self, model: str, *, lane: str | None = None) -> ModelInfo:
        """Check a model against its pinned digest, and return it with the digest that the lane computes or looks up.

        Raises:
            DigestMismatch: the pinned digest differs, or the model's files have changed.
            LlmError: the errors of `pull`.
        """
        return await Models(self.link, self.agent).verify(model, lane)

    async def load(self, model: str, *, lane: str | None = None) -> None:
        """Load a model into a lane's memory. Returns once the model can answer. Raises the errors of `verify`."""
        await Models(self.link, self.agent).run("load", model, lane)

    async def unload(self, model: str, *, lane: str | None = None) -> None:
        """Unload a model from a lane's memory. Raises the errors of `pull`."""
        await Models(self.link, self.agent).run("unload", model, lane)

    @property
    def internal_errors(self) -> int:
        """The number of unexpected errors (bugs in tokenlane) that the client has survived. The log has the details."""
        return self.link.internal_errors.count

    async def complete(
        self,
        messages: Messages,
        *,
        role: str,
        agent: str | None = None,
        response_format: ResponseFormat[Parsed] = None,
        **options: Unpack[ChatOptions],
    ) -> Answer[Parsed]:
        """Send a chat request and return the complete answer. Arguments and errors are those of `chat` and its stream.

        Raises:
            SchemaMismatch: the answer does not match the pydantic model given as `response_format`.
        """
        stream = self.chat(messages, role=role, agent=agent, response_format=response_format, **options)
        async with stream:
            return await stream.answer()

    async def __aenter__(self) -> Self:
        if self._link is not None:
            raise RuntimeError("the client is already connected: enter it once and share it")
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
    """Return the URL, the name and the keys of the pool."""
    if url is not None and not (isinstance(url, str) and url):
        given = "empty" if isinstance(url, str) else f"of type {type(url).__name__}"
        raise TypeError(f"`url` is {given}: give a string such as redis://HOST:6379, or omit it to find the pool")
    keys, name = _keys(key), "main"
    try:
        if not isinstance(url, str):
            redis, name = pool_of_client()
            url, keys = redis.url, redis.keys if keys is None else keys
        elif keys is None:
            keys = keys_of_client()
    except ConfigError as error:
        raise PoolUnavailable(str(error)) from None
    return url, _name(name if pool is None else pool), keys


def _keys(key: object) -> KeyRing | None:
    """The keys that the caller gave; None if the client must look for them."""
    if key is None or isinstance(key, KeyRing):
        return key
    texts = [key] if isinstance(key, str) else key
    if not isinstance(texts, Sequence) or not all(isinstance(text, str) for text in texts):
        raise TypeError(f"`key` is of type {type(key).__name__}: give the pool's key as a string, or a list of keys")
    if not all(map(str.strip, texts)):
        raise ValueError("`key` is empty: give the pool's key, or [] if it has no key")
    return KeyRing.parse(*texts)


def _name(name: object) -> str:
    if not (isinstance(name, str) and is_name(name)):
        raise ValueError(f"{reprlib.repr(name)} is not a name: {NAME_RULE}")
    return name


def _default_agent() -> str:
    return _NOT_IN_A_NAME.sub("-", f"{socket.gethostname()}-{os.getpid()}")[-128:].lstrip("_.@-")
