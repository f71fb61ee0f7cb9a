"""What is wrong with a pool and its surroundings: its server, its keys, its lanes and their endpoints, versions."""

from __future__ import annotations

import asyncio
import platform
import socket
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version

from tokenlane.routing.store.pool import Pool
from tokenlane.routing.watch.parse_snapshot import take_snapshot

from .finding import Code, Finding
from .pool_health import examine_pool
from .reach_endpoint import Reached, reach
from .redis_facts import ask_server
from .redis_health import examine_server
from .snapshot import LaneStatus, Snapshot

_ONE_VERSION = "install one version of tokenlane everywhere"


async def examine(pool: Pool) -> tuple[Finding, ...]:
    """Look at everything.

    Raises:
        PoolUnavailable: the pool does not answer.
    """
    server = await ask_server(pool)
    seen = await take_snapshot(pool)
    lanes = [lane for lane in seen.lanes if lane.state != "left"]
    reached = await asyncio.gather(*(reach(lane.endpoint) for lane in lanes))
    return (
        *examine_server(server),
        *examine_readers(seen),
        *examine_pool(seen),
        *(examine_endpoint(lane, found, socket.gethostname()) for lane, found in zip(lanes, reached, strict=True)),
        *examine_versions(seen),
    )


def examine_readers(seen: Snapshot) -> Iterator[Finding]:
    """Who can read the pool: its key, its policy, and what of it nobody here understands."""
    if seen.key_id is None:
        yield Finding(Code.KEY, "warn", "none", "give agents and workers TOKENLANE_POOL_KEY: `tokenlane key new`")
    else:
        yield Finding(Code.KEY, "ok", seen.key_id)
    if seen.lagging:
        advice = "look again in 10 s; those that still lag are frozen or cut off: start them again"
        found = f"revision {seen.revision}, not seen by {', '.join(seen.lagging)}"
        yield Finding(Code.POLICY, "warn", found, advice)
    else:
        yield Finding(Code.POLICY, "ok", f"revision {seen.revision}")
    if seen.unknown:
        yield Finding(Code.NOT_UNDERSTOOD, "warn", "; ".join(seen.unknown), _ONE_VERSION)


def examine_endpoint(lane: LaneStatus, reached: Reached, host: str) -> Finding:
    """Whether a lane's endpoint can be reached.

    Args:
        host: from where it was tried.
    """
    found = f"{lane.endpoint} {f'{reached} from here' if reached in ('answers', 'refuses') else reached}"
    if reached == "is no URL":
        advice = f"{_ONE_VERSION}; nobody can tell where this lane's server is"
        return Finding(Code.ENDPOINT, "warn", found, advice, lane.name)
    if reached == "refuses" and host in {worker.host for worker in lane.workers}:
        advice = "its worker runs on this host: is the model server running?"
        return Finding(Code.ENDPOINT, "fail", found, advice, lane.name)
    return Finding(Code.ENDPOINT, "ok", found, subject=lane.name)


def examine_versions(seen: Snapshot) -> Iterator[Finding]:
    """The versions of the workers, compared with this command's."""
    ours = own_versions()
    yield Finding(Code.VERSIONS, "ok", f"{_versions(ours)}, here")
    for worker in (worker for lane in seen.lanes for worker in lane.workers if worker.state != "silent"):
        theirs = worker.versions
        if not theirs:
            yield Finding(Code.VERSIONS, "unknown", "it has not told yet", "look again in 10 s", worker.name)
        elif theirs.get("tokenlane") != ours.get("tokenlane"):
            yield Finding(Code.VERSIONS, "warn", _versions(theirs), _ONE_VERSION, worker.name)
        else:
            yield Finding(Code.VERSIONS, "ok", _versions(theirs), subject=worker.name)


def examine_environment(unknown: Mapping[str, str]) -> Finding:
    """This command's own variables.

    Args:
        unknown: those that nothing reads, each with what may have been meant.
    """
    if unknown:
        found = "; ".join(f"nothing reads {variable}.{near}" for variable, near in unknown.items())
        advice = "correct or unset them, if they are meant for tokenlane; `tokenlane config` shows what holds"
        return Finding(Code.ENVIRONMENT, "warn", found, advice)
    return Finding(Code.ENVIRONMENT, "ok", "every variable TOKENLANE_… is one that is read")


def own_versions() -> dict[str, str]:
    """The versions of what this process runs on; arq is missing where no worker is installed."""
    found = {"python": platform.python_version()}
    for name in ("tokenlane", "arq", "redis"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _versions(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {text}" for name, text in sorted(versions.items(), key=lambda it: it[0] != "tokenlane"))
