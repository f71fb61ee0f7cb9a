"""Completes names in a shell: providers, and the lanes, roles and models of the configuration and the pool.

A shell asks at a key press: the pool has half a second to answer, and what fails adds no names and prints nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

from tokenlane.config.exit_codes import UserError
from tokenlane.config.settings.load import find_pool, pool_name, read
from tokenlane.config.settings.merged import Settings
from tokenlane.config.settings.schema import provider_names
from tokenlane.routing.contract.errors import LlmError
from tokenlane.routing.store.pool import connect
from tokenlane.routing.watch.parse_snapshot import take_snapshot
from tokenlane.routing.watch.snapshot import Snapshot

_PATIENCE_S = 0.5


def providers(incomplete: str) -> list[str]:
    """The providers whose names begin with the text."""
    return [name for name in provider_names() if name.startswith(incomplete)]


def lanes(incomplete: str) -> list[str]:
    """The lanes whose names begin with the text."""
    return _named(incomplete, lambda settings: settings.lanes, lambda seen: [lane.name for lane in seen.lanes])


def roles(incomplete: str) -> list[str]:
    """The roles whose names begin with the text: those with a policy, and those that have asked lately."""
    return _named(
        incomplete,
        lambda settings: list(settings.document.roles),
        lambda seen: [*seen.policy.roles, *(role.role for role in seen.roles)],
    )


def models(incomplete: str) -> list[str]:
    """The models whose names begin with the text."""
    return _named(
        incomplete,
        lambda settings: list(settings.document.models),
        lambda seen: [model for lane in seen.lanes for model in lane.models],
    )


def _named(
    incomplete: str, configured: Callable[[Settings], list[str]], connected: Callable[[Snapshot], list[str]]
) -> list[str]:
    names: set[str] = set()
    with suppress(UserError):
        names.update(configured(read()))
    with suppress(UserError, LlmError, TimeoutError):
        names.update(connected(asyncio.run(_snapshot())))
    return sorted(name for name in names if name.startswith(incomplete))


async def _snapshot() -> Snapshot:
    async with asyncio.timeout(_PATIENCE_S), connect(find_pool().url, pool_name()) as pool:
        return await take_snapshot(pool)
