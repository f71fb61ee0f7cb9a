"""What a worker says when it comes to a pool: one block, or one line of JSON. `worker --check` says it and ends."""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass, replace
from typing import Any

from tokenlane.config.cli.plain_text import json_text, one_line
from tokenlane.config.host.pool_key_files import KeyRing, beside
from tokenlane.config.settings.values import LaneSettings, RedisSettings, masked
from tokenlane.routing.contract.errors import LlmError, PoolKeyMismatch, ProviderDown, Unauthorized
from tokenlane.routing.decide.lanes.offer import Announcement, Offer
from tokenlane.routing.decide.lanes.state import UP, Condition
from tokenlane.routing.decide.policy import served_name
from tokenlane.routing.store.hub import open_hub
from tokenlane.routing.store.pool import Pool, connect
from tokenlane.routing.store.rehearsal import rehearse
from tokenlane.routing.watch.parse_snapshot import take_snapshot
from tokenlane.routing.watch.route_coverage import Reach, lines_to_add, reach
from tokenlane.routing.watch.snapshot import Snapshot
from tokenlane.worker.builtin import MODEL_NAME
from tokenlane.worker.builtin.model import DOWNLOAD_BYTES, downloaded
from tokenlane.worker.builtin.server import CAPACITY, needs_server
from tokenlane.worker.discovery.servers import kind_at
from tokenlane.worker.lane.lane import Lane
from tokenlane.worker.lane.offer import announce
from tokenlane.worker.lane.readiness import condition_of
from tokenlane.worker.providers import LlmProvider, default_registry
from tokenlane.worker.providers.server_names import NAMES

__all__ = ["Arrival", "arrive", "as_line", "look_around"]

_LOOK_S = 5.0


@dataclass(frozen=True)
class Listed:
    """How a back end answered when it was asked for its models: after how long with which, or with an error.

    Neither: it is still to be started.
    """

    after_ms: float | None = None
    models: tuple[str, ...] = ()
    error: LlmError | None = None

    def said(self) -> str:
        """Whether it answered."""
        if self.error is None:
            return "which the worker starts" if self.after_ms is None else f"answered in {self.after_ms:.0f} ms"
        if isinstance(self.error, Unauthorized):
            return "refused the key"
        return "did not answer" if self.error.retryable else "did not list its models"

    def problem(self) -> tuple[str, ...]:
        """What is wrong."""
        return () if self.error is None else (str(self.error),)

    def lacks(self, wanted: tuple[str, ...]) -> tuple[str, ...]:
        """What is wrong with the models that it has, if they are known."""
        if self.error is not None:
            return ()
        missing = [model for model in wanted if served_name(model, self.models) is None]
        has = ", ".join(self.models) or "none"
        return tuple(f"the back end does not have model {model!r}; it has {has}" for model in missing)


@dataclass(frozen=True)
class Arrival:
    """A lane beside the pool it comes to.

    `key_id`: of the key that seals its requests, None if none does. `endpoint`: as this worker reaches it. `listed`:
    how the back end answered. `server`: the provider for what answers there, None if it is not recognised. `lane`: what
    is announced, None if the back end does not say enough. `seen`: the pool, None if it did not answer. `problems`:
    what is wrong, one line each. `options`: those that the commands it advises need to find the pool.
    `own_model`: of a model that the worker brings itself, whether it is there. `waits`: the worker waits for its back
    end.
    """

    name: str
    provider: str
    endpoint: str
    redis: str
    key_id: str | None
    listed: Listed
    server: str | None
    capacity_source: str
    lane: Announcement | None
    seen: Snapshot | None
    problems: tuple[str, ...]
    options: str = ""
    own_model: str = ""
    waits: bool = False

    @property
    def reach(self) -> Reach | None:
        """The roles that come here, as far as that is known."""
        if self.seen is None or self.lane is None:
            return None
        return reach(self.seen.policy, lane=self.name, provider=self.provider, models=self.lane.models)

    @property
    def to_add(self) -> tuple[str, ...]:
        """Sections of llm.toml that would send roles here, if no route does and there is a model for them."""
        found = self.reach
        if self.seen is None or self.lane is None or found is None or found.routed:
            return ()
        listed, models = self.listed.models, self.lane.models
        there = tuple(model for model in models if not listed or served_name(model, listed) is not None)
        if models and not there:
            return ()
        return tuple(
            lines_to_add(self.seen.policy, role, provider=self.provider, models=there) for role in found.left_out
        )

    def document(self) -> dict[str, Any]:
        """The arrival for programs."""
        found, lane = self.reach, self.lane
        return {
            "lane": self.name,
            "provider": self.provider,
            "endpoint": (lane.endpoint or None) if lane else self.endpoint,
            "models": lane.models if lane else (),
            "capacity": self.chats,
            "capacity_source": self.capacity_source,
            "server": self.server,
            "answered_ms": self.listed.after_ms,
            "revision": self.seen.revision if self.seen else None,
            "key_id": self.key_id,
            "roles": found.routed if found else (),
            "roles_left_out": found.left_out if found else (),
            "to_add": self.to_add,
            "problems": self.problems,
            "hints": [*self._other_server(), *self._remarks()],
        }

    @property
    def chats(self) -> int | None:
        """How many the lane takes at once."""
        return self.lane.limit_of("chat") if self.lane else None

    def text(self) -> str:
        """The arrival for people."""
        lane, seen = self.lane, self.seen
        revision = f", policy revision {seen.revision}" if seen and seen.revision else ""
        lines = [
            f"pool      {seen.pool if seen else 'does not answer'} at {self.redis}{revision}",
            f"key       {self.key_id or 'none: requests are not sealed'}",
            f"lane      {self.name}, provider {self.provider}",
            f"endpoint  {self.endpoint}, {self.listed.said()}",
            *(f"server    {other}" for other in self._other_server()),
            f"models    {', '.join(lane.models) if lane else 'unknown'}{self.own_model}",
            f"capacity  {f'{self.chats} at once, {self.capacity_source}' if lane else 'unknown'}",
            *self._roles(),
            *(f"remark    {remark}" for remark in self._remarks()),
            *(f"problem   {problem}" for problem in self.problems),
            *(["waits     until the back end can work; what is asked of this lane waits too"] if self.waits else []),
        ]
        return "\n".join(map(one_line, lines))

    def _other_server(self) -> list[str]:
        """Which server answers, if it is not that of the lane's provider. One that only speaks OpenAI's dialect may be
        any, with something before it."""
        server = self.server
        if server is None or server in (self.provider, "openai"):
            return []
        name, instead = NAMES[server], f'provider = "{server}"'
        if self.provider == "openai":
            return [f"this is {name}: {instead} knows more of it"]
        return [f"this is {name}, not {NAMES[self.provider]}: set {instead}"]

    def _remarks(self) -> list[str]:
        """Other lanes that serve the same back end."""
        if self.seen is None or self.lane is None or not self.lane.endpoint:
            return []
        own = self.lane.endpoint.rstrip("/").lower()
        others = [
            repr(lane.name)
            for lane in self.seen.without_fallback
            if lane.name != self.name
            and lane.state not in ("left", "gone")
            and lane.endpoint.rstrip("/").lower() == own
        ]
        if not others:
            return []
        return [f"this back end is also that of {', '.join(others)}: each gives it as much as its own capacity says"]

    def _roles(self) -> list[str]:
        found = self.reach
        if found is None:
            return ["roles     unknown"]
        if found.routed:
            return [f"roles     {', '.join(found.routed)}; and every role without a route"]
        if not found.left_out:
            return ["roles     all: the policy has no routes"]
        lines = [f"those without a route; the policy's routes ({', '.join(found.left_out)}) leave this lane out."]
        if self.to_add:  # not into llm.toml, which may be this host's own
            lines += [
                f"To let one come here: `tokenlane policy show{self.options} > ops.toml`,",
                f"change its lines to those below, and `tokenlane policy apply ops.toml{self.options}`.",
                *(f"  {line}" for section in self.to_add for line in section.splitlines()),
            ]
        return [f"{'' if number else 'roles':10}{line}" for number, line in enumerate(lines)]


async def look_around(
    lane: Lane, settings: LaneSettings, redis: RedisSettings, capacity_source: str, options: str = ""
) -> Arrival:
    """The arrival of a lane that is announced already; never raises an `LlmError`."""
    condition, announced = lane.lease.condition, lane.lease.announcement
    listed, server = await _looked(settings, lane.provider)
    try:
        seen = await take_snapshot(lane.pool)
    except LlmError:
        seen = None
    return Arrival(
        name=lane.name,
        provider=settings.provider,
        endpoint=masked(lane.provider.endpoint),
        redis=redis.safe_url,
        key_id=lane.pool.keychain.key_id,
        listed=listed,
        server=server,
        capacity_source=capacity_source,
        lane=announced if condition == UP else None,
        seen=seen,
        problems=(*(listed.problem() or _not_up(condition)), *listed.lacks(settings.models))
        or _another(settings, server),
        options=options,
        waits=condition != UP,
    )


async def arrive(
    settings: LaneSettings, redis: RedisSettings, pool_name: str, capacity_source: str, options: str = ""
) -> Arrival:
    """Look at the back end and the pool as a worker would, taking no work and announcing nothing. A server for the
    built-in model is not started.

    Raises:
        PoolUnavailable: no pool answers there.
        ConfigError: there is no such provider, or its endpoint cannot be used.
    """
    if needs_server(settings):
        return await _before_its_server(settings, redis, pool_name, capacity_source, options)
    async with connect(redis.url, pool_name) as pool, default_registry().create(settings) as provider:
        listed, server = await _looked(settings, provider)
        lane, problem = None, listed.problem() or _not_up(await condition_of(provider))
        if not problem:
            try:
                lane = await announce(settings, provider)
            except LlmError as error:
                problem = (str(error),)
        seen = await take_snapshot(pool)
        ring = redis.keys if redis.keys.keys else beside(redis.url)
        return Arrival(
            name=settings.name,
            provider=settings.provider,
            endpoint=masked(provider.endpoint),
            redis=redis.safe_url,
            key_id=seen.key_id or next(iter(ring.ids), None),
            listed=listed,
            server=server,
            capacity_source=capacity_source,
            lane=lane,
            seen=seen,
            problems=(
                *problem,
                *listed.lacks(settings.models),
                *_not_as_pinned(settings, listed.models, lane),
                *_taken(lane, seen),
                *await _locked(pool, ring, seen),
                *await _refused(pool),
            )
            or _another(settings, server),
            options=options,
        )


async def _before_its_server(
    settings: LaneSettings, redis: RedisSettings, pool_name: str, capacity_source: str, options: str
) -> Arrival:
    """The arrival of a lane whose worker will start the built-in model's server."""
    ring = redis.keys if redis.keys.keys else beside(redis.url)
    async with connect(redis.url, pool_name) as pool:
        seen = await take_snapshot(pool)
        refused = (*await _locked(pool, ring, seen), *await _refused(pool))
    lane = Announcement(
        settings.name, settings.provider, "", (MODEL_NAME,), Offer(limits={"chat": settings.capacity or CAPACITY})
    )
    when = "already" if downloaded() else f"first ({DOWNLOAD_BYTES / 1e6:.0f} MB)"
    listed = Listed(models=(MODEL_NAME,))
    return Arrival(
        name=settings.name,
        provider=settings.provider,
        endpoint="a server of its own",
        redis=redis.safe_url,
        key_id=seen.key_id or next(iter(ring.ids), None),
        listed=listed,
        server=None,
        capacity_source=capacity_source,
        lane=lane,
        seen=seen,
        problems=(*listed.lacks(settings.models), *_taken(lane, seen), *refused),
        options=options,
        own_model=f", the built-in one, which is downloaded {when}",
    )


async def _looked(settings: LaneSettings, provider: LlmProvider) -> tuple[Listed, str | None]:
    """How the back end lists its models, and the provider for the server it is."""
    if settings.provider not in NAMES:
        return await _listed(provider), None
    async with asyncio.TaskGroup() as tasks:
        listing = tasks.create_task(_listed(provider))
        kind = tasks.create_task(kind_at(replace(settings, endpoint=provider.endpoint)))
    return listing.result(), kind.result()


def _another(settings: LaneSettings, server: str | None) -> tuple[str, ...]:
    """What is wrong with a server that is known for another one than the provider's, however well it answers."""
    if server is None or settings.provider not in NAMES or {server, settings.provider} & {"openai"}:
        return ()
    if server == settings.provider:
        return ()
    return (f"{NAMES[server]} answers, and provider {settings.provider!r} is for {NAMES[settings.provider]}",)


def _not_up(condition: Condition) -> tuple[str, ...]:
    """What is wrong with a back end that lists its models, and cannot work."""
    return () if condition == UP else (f"the back end is {condition.state}: {condition.why}",)


async def _listed(provider: LlmProvider) -> Listed:
    clock = asyncio.get_running_loop().time
    start = clock()
    try:
        async with asyncio.timeout(_LOOK_S):
            models = await provider.models()
    except TimeoutError:
        return Listed(
            error=ProviderDown(f"the back end did not list its models within {_LOOK_S:g} s: is the endpoint right?")
        )
    except LlmError as error:
        return Listed(error=error)
    return Listed(round(1000 * (clock() - start), 1), tuple(model.name for model in models))


def _not_as_pinned(settings: LaneSettings, listed: tuple[str, ...], lane: Announcement | None) -> tuple[str, ...]:
    wanted = [name for name in settings.digests if not settings.models or served_name(name, settings.models)]
    return tuple(
        f"model {name!r} is pinned, and not served, since it is another or cannot be checked: the log says which"
        for name in wanted
        if lane and served_name(name, listed) and not served_name(name, lane.models)
    )


def _taken(lane: Announcement | None, seen: Snapshot) -> tuple[str, ...]:
    held = [other for other in seen.lanes if other.state not in ("draining", "left", "gone")]
    return tuple(
        f"the lane's name is in use for {other.endpoint}: choose another with --lane, or stop that worker"
        for other in held
        if lane and other.name == lane.lane and other.endpoint != lane.endpoint
    )


async def _locked(pool: Pool, ring: KeyRing, seen: Snapshot) -> tuple[str, ...]:
    """Whether the pool's keys are ours. Joining the pool would tell, but may also seal it."""
    try:
        await pool.sealing.check(ring)
    except PoolKeyMismatch as error:
        return (error.message,)
    ahead = [key_id for key_id in seen.prepared if ring.find(key_id) is None]
    if ahead:
        return (
            f"the pool's next key, {', '.join(ahead)}, is prepared and not here: give this worker the keys that "
            "`tokenlane key show --reveal` prints where the key is, before `tokenlane key rotate`",
        )
    if seen.key_id is None and ring.keys and (seen.lanes or seen.clients.known):
        return (f"the pool is in use without a key, and yours is {', '.join(ring.ids)}: leave it out",)
    return ()


async def _refused(pool: Pool) -> tuple[str, ...]:
    """What a worker does and this server, or this user's rules there, do not allow."""
    problems = list(await rehearse(pool))
    heard = asyncio.Event()
    channel = pool.keys.control(f"check-{secrets.token_hex(8)}")
    try:
        async with open_hub(pool, _LOOK_S) as hub, asyncio.timeout(2 * _LOOK_S):
            await hub.subscribe(channel, lambda _: heard.set())
            await pool.publish([(channel, b"")])
            await heard.wait()
    except TimeoutError:
        problems.append("the Redis server does not hand on what is published on the pool's channels")
    except LlmError as error:
        problems.append(error.message)
    return tuple(dict.fromkeys(problems))


def as_line(event: str, pool: str, arrival: Arrival, **more: object) -> str:
    """The arrival as one line of JSON."""
    return json_text({"event": event, "pool": pool, **more, **arrival.document()})
