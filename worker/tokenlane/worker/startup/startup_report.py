"""What a worker reports when it comes to a pool, in a block or as JSON. `worker --check` reports it and ends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tokenlane.config.cli.plain_text import json_text, one_line
from tokenlane.config.settings.values import LaneSettings, RedisSettings
from tokenlane.routing.decide.lanes.offer import Announcement
from tokenlane.routing.watch.finding import Code, Finding
from tokenlane.routing.watch.route_coverage import RouteCoverage, lines_to_add, route_coverage
from tokenlane.routing.watch.snapshot import Snapshot

from .back_end import BackEnd


@dataclass(frozen=True)
class Destination:
    """Where a worker goes, and with what.

    Args:
        capacity_source: where the lane's capacity comes from, for people.
        options: those that the commands it advises need to find the pool.
    """

    settings: LaneSettings
    redis: RedisSettings
    pool: str
    capacity_source: str
    options: str = ""


@dataclass(frozen=True)
class StartupReport:
    """A lane and the pool it comes to.

    Args:
        key_id: of the key that seals its requests, None if none does.
        lane: what is announced, None if the back end does not say enough.
        seen: the pool, None if it did not answer.
        own_model: of a model that the worker brings itself, whether it is there.
        waits: the worker waits for its back end.
    """

    to: Destination
    key_id: str | None
    back_end: BackEnd
    lane: Announcement | None
    seen: Snapshot | None
    findings: tuple[Finding, ...]
    own_model: str = ""
    waits: bool = False

    @property
    def problems(self) -> tuple[Finding, ...]:
        """What keeps the lane from working."""
        return tuple(finding for finding in self.findings if finding.severity == "fail")

    @property
    def remarks(self) -> tuple[Finding, ...]:
        """What does not, and may not be meant so."""
        return tuple(finding for finding in (*self.findings, *self._shared()) if finding.severity == "warn")

    @property
    def coverage(self) -> RouteCoverage | None:
        """The roles that come here, as far as that is known."""
        if self.seen is None or self.lane is None:
            return None
        settings = self.to.settings
        return route_coverage(self.seen.policy, lane=settings.name, provider=settings.provider, models=self.lane.models)

    @property
    def to_add(self) -> tuple[str, ...]:
        """Sections of llm.toml that would send roles here, if no route does and there is a model for them."""
        found = self.coverage
        if self.seen is None or self.lane is None or found is None or found.routed:
            return ()
        models, provider = self.lane.models, self.to.settings.provider
        there = tuple(model for model in models if not self.back_end.models or self.back_end.has(model))
        if models and not there:
            return ()
        return tuple(lines_to_add(self.seen.policy, role, provider=provider, models=there) for role in found.left_out)

    @property
    def chats(self) -> int | None:
        """How many the lane takes at once."""
        return self.lane.offer.limit_of("chat") if self.lane else None

    def document(self) -> dict[str, Any]:
        """The arrival for programs."""
        found, lane, settings = self.coverage, self.lane, self.to.settings
        return {
            "lane": settings.name,
            "provider": settings.provider,
            "endpoint": (lane.endpoint or None) if lane else self.back_end.endpoint,
            "models": lane.models if lane else (),
            "capacity": self.chats,
            "capacity_source": self.to.capacity_source,
            "server": self.back_end.server,
            "answered_ms": self.back_end.after_ms,
            "revision": self.seen.revision if self.seen else None,
            "key_id": self.key_id,
            "roles": found.routed if found else (),
            "roles_left_out": found.left_out if found else (),
            "to_add": self.to_add,
            "problems": [problem.document() for problem in self.problems],
            "remarks": [remark.document() for remark in self.remarks],
        }

    def text(self) -> str:
        """The arrival for people."""
        lane, seen, settings = self.lane, self.seen, self.to.settings
        revision = f", policy revision {seen.revision}" if seen and seen.revision else ""
        lines = [
            f"pool      {seen.pool if seen else 'does not answer'} at {self.to.redis.safe_url}{revision}",
            f"key       {self.key_id or 'none: requests are not sealed'}",
            f"lane      {settings.name}, provider {settings.provider}",
            f"endpoint  {self.back_end}",
            f"models    {', '.join(lane.models) if lane else 'unknown'}{self.own_model}",
            f"capacity  {f'{self.chats} at once, {self.to.capacity_source}' if lane else 'unknown'}",
            *self._roles(),
            *(f"remark    {remark}" for remark in self.remarks),
            *(f"problem   {problem}" for problem in self.problems),
            *(["waits     until the back end can work; what is asked of this lane waits too"] if self.waits else []),
        ]
        return "\n".join(map(one_line, lines))

    def _shared(self) -> list[Finding]:
        """Other lanes that serve the same back end."""
        if self.seen is None or self.lane is None or not self.lane.endpoint:
            return []
        own = self.lane.endpoint.rstrip("/").lower()
        others = [
            repr(lane.name)
            for lane in self.seen.lanes
            if lane.name != self.lane.lane and not lane.state.is_away and lane.endpoint.rstrip("/").lower() == own
        ]
        if not others:
            return []
        found = f"this back end is also that of {', '.join(others)}: each gives it as much as its own capacity says"
        return [Finding(Code.BACK_END_SHARED, "warn", found, subject=self.lane.lane)]

    def _roles(self) -> list[str]:
        found = self.coverage
        if found is None:
            return ["roles     unknown"]
        if found.routed:
            return [f"roles     {', '.join(found.routed)}; and every role without a route"]
        if not found.left_out:
            return ["roles     all: the policy has no routes"]
        lines = [f"those without a route; the policy's routes ({', '.join(found.left_out)}) leave this lane out."]
        if self.to_add:  # not into llm.toml, which may be this host's own
            lines += [
                f"To let one come here: `tokenlane policy show{self.to.options} > ops.toml`,",
                f"change its lines to those below, and `tokenlane policy apply ops.toml{self.to.options}`.",
                *(f"  {line}" for section in self.to_add for line in section.splitlines()),
            ]
        return [f"{'' if number else 'roles':10}{line}" for number, line in enumerate(lines)]


def as_line(event: str, arrival: StartupReport, **more: object) -> str:
    """The arrival as one line of JSON."""
    return json_text({"event": event, "pool": arrival.to.pool, **more, **arrival.document()})
