"""The report that a worker prints when it starts, as text or JSON; `worker --check` prints it and exits."""

from __future__ import annotations

from dataclasses import dataclass

from tokenlane.config.cli.plain_text import json_text, one_line
from tokenlane.config.settings.values import LaneSettings, RedisSettings
from tokenlane.routing.decide.candidates import served_name
from tokenlane.routing.decide.lanes.offer import Announcement
from tokenlane.routing.watch.finding import Finding
from tokenlane.routing.watch.route_coverage import RouteCoverage, lines_to_add, route_coverage
from tokenlane.routing.watch.snapshot import Snapshot
from tokenlane.worker.builtin.model import DOWNLOAD_BYTES, downloaded
from tokenlane.worker.builtin.server import needs_builtin_server

from .probe_model_server import ServerProbe

_CHECKED = (
    "checked   that the pool answers and runs a worker's commands, its keys, the model server's health and its models",
    "unchecked that a model answers: no chat was sent, so a model that does not load or a wrong API key may not show",
)


@dataclass(frozen=True)
class Destination:
    """A lane, and the pool that its worker joins.

    Args:
        capacity_source: where the lane's capacity comes from.
        options: the options that other commands need to find the pool, with a leading space.
    """

    settings: LaneSettings
    redis: RedisSettings
    pool: str
    capacity_source: str
    options: str = ""


@dataclass(frozen=True)
class StartupReport:
    """A lane and its pool when the worker starts.

    Args:
        key_id: the key that seals the lane's requests; None if the pool has no key.
        lane: the lane's announcement; None if the model server does not answer.
        snapshot: the state of the pool; None if the pool did not answer.
        waits: whether the worker waits for its model server.
    """

    to: Destination
    key_id: str | None
    probe: ServerProbe
    lane: Announcement | None
    snapshot: Snapshot | None
    findings: tuple[Finding, ...]
    waits: bool = False

    @property
    def problems(self) -> tuple[Finding, ...]:
        """The findings that keep the lane from working."""
        return tuple(finding for finding in self.findings if finding.severity == "fail")

    @property
    def remarks(self) -> tuple[Finding, ...]:
        """Findings that may be mistakes. The lane works in spite of them."""
        return tuple(finding for finding in self.findings if finding.severity == "warn")

    @property
    def pins(self) -> dict[str, str]:
        """The file and line of each pin, by model. Omits pins on models that the lane cannot serve."""
        settings = self.to.settings
        models = settings.models or self.probe.models
        pins = settings.pinned_by.items()
        return {model: source for model, source in pins if not models or served_name(model, models) is not None}

    @property
    def coverage(self) -> RouteCoverage | None:
        """The roles that are routed to the lane; None if that is not known."""
        if self.snapshot is None or self.lane is None:
            return None
        settings = self.to.settings
        return route_coverage(
            self.snapshot.policy, lane=settings.name, provider=settings.provider, models=self.lane.models
        )

    @property
    def to_add(self) -> tuple[str, ...]:
        """Sections of llm.toml that would route roles to the lane's models; empty if a route leads to the lane."""
        coverage = self.coverage
        if self.snapshot is None or self.lane is None or coverage is None or coverage.routed:
            return ()
        models, provider = self.lane.models, self.to.settings.provider
        listed = tuple(model for model in models if not self.probe.models or self.probe.has(model))
        if models and not listed:
            return ()
        return tuple(
            lines_to_add(self.snapshot.policy, role, provider=provider, models=listed) for role in coverage.left_out
        )

    def json_line(self, event: str, **facts: object) -> str:
        """The report as one line of JSON."""
        coverage, lane, settings = self.coverage, self.lane, self.to.settings
        return json_text(
            {
                "event": event,
                "pool": self.to.pool,
                **facts,
                "lane": settings.name,
                "provider": settings.provider,
                "endpoint": (lane.endpoint or None) if lane else self.probe.endpoint,
                "models": lane.models if lane else (),
                "pins": self.pins,
                "capacity": lane.offer.limit_of("chat") if lane else None,
                "capacity_source": self.to.capacity_source,
                "server": self.probe.server,
                "answered_ms": self.probe.answered_in_ms,
                "revision": self.snapshot.revision if self.snapshot else None,
                "key_id": self.key_id,
                "roles": coverage.routed if coverage else (),
                "roles_left_out": coverage.left_out if coverage else (),
                "to_add": self.to_add,
                "problems": [problem.document() for problem in self.problems],
                "remarks": [remark.document() for remark in self.remarks],
            }
        )

    def text(self, *, checks_only: bool = False) -> str:
        """The report as a block of text.

        Args:
            checks_only: whether nothing was started, so that the report names what was checked and what was not.
        """
        lane, snapshot, settings = self.lane, self.snapshot, self.to.settings
        revision = f", policy revision {snapshot.revision}" if snapshot and snapshot.revision else ""
        capacity = f"{lane.offer.limit_of('chat')} at once, {self.to.capacity_source}" if lane else "unknown"
        built_in = ""
        if needs_builtin_server(settings):
            size = f"not downloaded yet ({DOWNLOAD_BYTES / 1e6:.0f} MB)"
            built_in = f" (built in, {'already downloaded' if downloaded() else size})"
        lines = [
            f"pool      {snapshot.pool if snapshot else 'does not answer'} at {self.to.redis.safe_url}{revision}",
            f"key       {self.key_id or 'none: requests and answers are not sealed'}",
            f"lane      {settings.name}, provider {settings.provider}",
            f"endpoint  {self.probe}",
            f"models    {', '.join(lane.models) if lane else 'unknown'}{built_in}",
            *(f"pins      {model}, by {source}" for model, source in self.pins.items()),
            f"capacity  {capacity}",
            *self._roles(),
            *(f"remark    {remark}" for remark in self.remarks),
            *(f"problem   {problem}" for problem in self.problems),
            *(_CHECKED if checks_only else ()),
            *(["waits     for the model server to work; meanwhile the lane accepts no requests"] if self.waits else []),
        ]
        return "\n".join(map(one_line, lines))

    def _roles(self) -> list[str]:
        coverage = self.coverage
        if coverage is None:
            return ["roles     unknown"]
        if coverage.routed:
            return [f"roles     {', '.join(coverage.routed)}, and every role without a route"]
        if not coverage.left_out:
            return ["roles     all: the policy has no routes"]
        lines = [f"every role without a route; the routes of {', '.join(coverage.left_out)} do not include this lane."]
        if self.to_add:  # in the pool's policy, since this host's llm.toml need not be the file it comes from
            lines += [
                f"To route a role to it, run `tokenlane policy show{self.to.options} > ops.toml`,",
                f"replace its lines by those below, and run `tokenlane policy apply ops.toml{self.to.options}`.",
                *(f"  {line}" for section in self.to_add for line in section.splitlines()),
            ]
        return [f"{'' if number else 'roles':10}{line}" for number, line in enumerate(lines)]
