"""Runs the checks of `tokenlane doctor`: Redis, keys, policy, lanes, endpoints, versions, variables and hooks."""

from __future__ import annotations

import asyncio
import platform
import socket
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version

from tokenlane.config.exit_codes import ConfigError
from tokenlane.config.settings.values import HookSettings
from tokenlane.routing.hooks.load import load_hooks
from tokenlane.routing.store.pool import Pool
from tokenlane.routing.watch.parse_snapshot import take_snapshot

from .finding import Code, Finding
from .pool_health import examine_pool
from .reach_endpoint import Reached, reach
from .redis_health import ask_server, examine_server
from .snapshot import LaneStatus, Snapshot

_NEW_KEY = "create a key with `tokenlane key new`, and set TOKENLANE_POOL_KEY on every host"
_ONE_VERSION = "install the same version of tokenlane on all hosts that run workers"


async def examine(pool: Pool) -> tuple[Finding, ...]:
    """Run all checks of the pool and its Redis server, and try to connect to the endpoint of each lane.

    Raises:
        PoolUnavailable: the pool does not answer.
    """
    server = await ask_server(pool)
    snapshot = await take_snapshot(pool)
    lanes = [lane for lane in snapshot.lanes if lane.state != "left"]
    reached = await asyncio.gather(*(reach(lane.endpoint) for lane in lanes))
    return (
        *examine_server(server),
        *examine_key_and_policy(snapshot),
        *examine_unreadable(snapshot),
        *examine_pool(snapshot),
        *(examine_endpoint(lane, result, socket.gethostname()) for lane, result in zip(lanes, reached, strict=True)),
        *examine_versions(snapshot),
    )


def examine_key_and_policy(snapshot: Snapshot) -> Iterator[Finding]:
    """Check that a key seals the pool, and that all routers and workers have read its newest policy."""
    if snapshot.key_id is None:
        yield Finding(Code.KEY, "warn", "requests and answers are not sealed", _NEW_KEY)
    else:
        yield Finding(Code.KEY, "ok", snapshot.key_id)
    if snapshot.lagging:
        advice = "check again in 10 s; restart processes that still lag, since they are frozen or disconnected"
        observed = f"revision {snapshot.revision}, not read yet by {', '.join(snapshot.lagging)}"
        yield Finding(Code.POLICY, "warn", observed, advice)
    else:
        yield Finding(Code.POLICY, "ok", f"revision {snapshot.revision}")


def examine_unreadable(snapshot: Snapshot) -> Iterator[Finding]:
    """Check for data in the pool that this version cannot read."""
    if snapshot.unknown:
        yield Finding(Code.NOT_UNDERSTOOD, "warn", "; ".join(snapshot.unknown), _ONE_VERSION)


def examine_endpoint(lane: LaneStatus, reached: Reached, host: str) -> Finding:
    """Judge the result of connecting to a lane's endpoint.

    Args:
        host: the name of this host. Only on its worker's host is an endpoint that refuses connections a failure.
    """
    if reached == "not a URL":
        advice = f"{_ONE_VERSION}; the worker announced an endpoint that this version cannot read"
        return Finding(Code.ENDPOINT, "warn", f"{lane.endpoint} is not a URL", advice, lane.name)
    if reached == "refuses" and host in {worker.host for worker in lane.workers}:
        advice = "start the model server; the lane's worker runs on this host and needs it"
        return Finding(Code.ENDPOINT, "fail", f"{lane.endpoint} refuses connections", advice, lane.name)
    results = {
        "accepts": "accepts connections",
        "refuses": "refuses connections from this host",
        "unreachable": "cannot be reached from this host",
    }
    return Finding(Code.ENDPOINT, "ok", f"{lane.endpoint} {results[reached]}", subject=lane.name)


def examine_versions(snapshot: Snapshot) -> Iterator[Finding]:
    """Compare the versions of all workers with those of this command."""
    ours = own_versions()
    yield Finding(Code.VERSIONS, "ok", f"{_versions(ours)} (this command)")
    for worker in (worker for lane in snapshot.lanes for worker in lane.workers if worker.is_alive):
        theirs = worker.versions
        if not theirs:
            yield Finding(Code.VERSIONS, "unknown", "not reported yet", "check again in 10 s", worker.name)
        elif theirs.get("tokenlane") != ours.get("tokenlane"):
            yield Finding(Code.VERSIONS, "warn", _versions(theirs), _ONE_VERSION, worker.name)
        else:
            yield Finding(Code.VERSIONS, "ok", _versions(theirs), subject=worker.name)


def examine_environment(unknown: Mapping[str, str]) -> Finding:
    """Check for `TOKENLANE_…` variables that nothing reads.

    Args:
        unknown: these variables, each with a hint such as "Did you mean 'TOKENLANE_REDIS_URL'?".
    """
    if not unknown:
        return Finding(Code.ENVIRONMENT, "ok", "all TOKENLANE_… variables are known")
    observed = " ".join(f"{variable} is unknown.{hint}" for variable, hint in unknown.items())
    advice = "correct or unset them; `tokenlane config` shows the settings in effect"
    return Finding(Code.ENVIRONMENT, "warn", observed, advice)


def examine_hooks(settings: HookSettings) -> Iterator[Finding]:
    """Import the hooks that this host's settings name, as its workers do when they start."""
    if settings == HookSettings():
        return
    try:
        load_hooks(settings)
    except ConfigError as error:
        yield Finding(Code.HOOKS, "fail", str(error), "correct it, and restart the workers of this host")
    else:
        named = [hook.name for hook in (settings.token, settings.request) if hook is not None]
        yield Finding(Code.HOOKS, "ok", ", ".join(named))


def own_versions() -> dict[str, str]:
    """The versions of Python, tokenlane, redis-py and, if a worker is installed, arq."""
    versions = {"python": platform.python_version()}
    for name in ("tokenlane", "arq", "redis"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def _versions(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {text}" for name, text in sorted(versions.items(), key=lambda it: it[0] != "tokenlane"))
