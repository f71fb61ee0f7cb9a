"""What a shell completes: the providers there are, and the lanes, roles and models of the configuration and the pool.

A shell asks at a key press: the pool has half a second, and whatever fails gives nothing and says nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import suppress

from tokenlane.config.effective import Settings
from tokenlane.config.exits import UserError
from tokenlane.config.load import find_pool, pool_name, read
from tokenlane.config.sections import provider_names
from tokenlane.routing.errors import LlmError
from tokenlane.routing.pool import connect
from tokenlane.routing.watch.snapshot import Snapshot

__all__ = ["lanes", "models", "providers", "roles"]

_PATIENCE_S = 0.5


def providers(incomplete: str) -> list[str]:
    """The kinds of back end that begin so."""
    return [name for name in provider_names() if name.startswith(incomplete)]


def lanes(incomplete: str) -> list[str]:
    """The lanes that begin so."""
    return _named(incomplete, lambda settings: settings.lanes, lambda seen: [lane.name for lane in seen.lanes])


def roles(incomplete: str) -> list[str]:
    """The roles that begin so: those with a policy, and those that have asked lately."""
    return _named(
        incomplete,
        lambda settings: list(settings.document.roles),
        lambda seen: [*seen.policy.roles, *(role.role for role in seen.roles)],
    )


def models(incomplete: str) -> list[str]:
    """The models that begin so."""
    return _named(
        incomplete,
        lambda settings: list(settings.document.models),
        lambda seen: [model for lane in seen.lanes for model in lane.models],
    )


def _named(
    incomplete: str, configured: Callable[[Settings], list[str]], there: Callable[[Snapshot], list[str]]
) -> list[str]:
    names: set[str] = set()
    with suppress(UserError):
        names.update(configured(read()))
    names.update(name for seen in _seen() for name in there(seen))
    return sorted(name for name in names if name.startswith(incomplete))


def _seen() -> Iterator[Snapshot]:
    async def look() -> Snapshot:
        async with asyncio.timeout(_PATIENCE_S), connect(find_pool().url, pool_name()) as pool:
            return await pool.snapshot()

    with suppress(UserError, LlmError, TimeoutError):
        yield asyncio.run(look())
