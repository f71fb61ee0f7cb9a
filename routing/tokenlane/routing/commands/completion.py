"""Completes the names of providers, lanes, roles and models in a shell.

The user waits for the names after a key press, so the pool gets half a second to answer. A pool or a file that cannot
be read adds no names and prints nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from tokenlane.config.exit_codes import UserError
from tokenlane.config.settings.load import read
from tokenlane.config.settings.merged import Settings
from tokenlane.config.settings.schema import provider_names
from tokenlane.routing.watch.parse_snapshot import take_snapshot
from tokenlane.routing.watch.snapshot import Snapshot

from .pool_session import pool_session

_TIMEOUT_S = 0.5


def providers(incomplete: str) -> list[str]:
    """The providers whose names begin with the text."""
    return [name for name in provider_names() if name.startswith(incomplete)]


def lanes(incomplete: str) -> list[str]:
    """The lanes whose names begin with the text."""
    return _complete(
        incomplete, lambda settings: settings.lanes, lambda snapshot: [lane.name for lane in snapshot.lanes]
    )


def roles(incomplete: str) -> list[str]:
    """The roles whose names begin with the text: roles of the policy, and roles with recent requests."""
    return _complete(
        incomplete,
        lambda settings: list(settings.document.roles),
        lambda snapshot: [*snapshot.policy.roles, *(role.role for role in snapshot.roles)],
    )


def roles_and_lanes(incomplete: str) -> list[str]:
    """The roles and the lanes whose names begin with the text."""
    return sorted({*roles(incomplete), *lanes(incomplete)})


def models(incomplete: str) -> list[str]:
    """The models whose names begin with the text."""
    return _complete(
        incomplete,
        lambda settings: list(settings.document.models),
        lambda snapshot: [model for lane in snapshot.lanes for model in lane.models],
    )


def _complete(
    incomplete: str, configured: Callable[[Settings], list[str]], connected: Callable[[Snapshot], list[str]]
) -> list[str]:
    names: set[str] = set()
    with suppress(UserError):
        names.update(configured(read()))
    with suppress(UserError, TimeoutError):
        names.update(connected(pool_session(None, None, take_snapshot, _TIMEOUT_S)))
    return sorted(name for name in names if name.startswith(incomplete))
