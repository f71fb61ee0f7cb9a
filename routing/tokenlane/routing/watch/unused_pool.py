"""Checks that a pool is in use. If it is not, its name may be wrong, so the finding names other pools on the server."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from tokenlane.routing.store.pool import Pool

from .finding import Code, Finding
from .snapshot import Snapshot

_POOL_OF_CHANNEL = re.compile(r"\{([^}]*)\}")


def is_unused(snapshot: Snapshot) -> bool:
    """Whether the pool has no lanes and no routers, and nobody has written a policy for it."""
    return not (snapshot.lanes or snapshot.routers or snapshot.revision)


async def other_pools(pool: Pool) -> tuple[str, ...]:
    """The other pools on the server that have a router now; none if the server refuses to list channels.

    Raises:
        PoolUnavailable: the server does not answer.
    """
    doorbells = await pool.commands.ask_about("PUBSUB", "CHANNELS", pool.keys.doorbell.replace(pool.keys.tag, "{*}", 1))
    channels = [str(name, "utf-8", "replace") for name in doorbells] if isinstance(doorbells, list) else []
    names = {match[1] for channel in channels if (match := _POOL_OF_CHANNEL.match(channel))}
    return tuple(sorted(names - {pool.keys.pool}))


def examine_use(snapshot: Snapshot, others: Sequence[str]) -> Iterator[Finding]:
    """Check that the pool is used.

    Args:
        others: the names of other pools on the same server.
    """
    if is_unused(snapshot):
        known = f" (other pools on this server: {', '.join(map(repr, others))})" if others else ""
        observed = f"pool {snapshot.pool!r} has no lanes and no policy: is the name right{known}?"
        advice = "name another pool with --pool, or start a worker for this pool"
        yield Finding(Code.POOL_UNUSED, "fail", observed, advice, snapshot.pool)
