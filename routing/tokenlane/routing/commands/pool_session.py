"""Opens a pool for a command, and turns the pool's errors into the errors that end a command."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from tokenlane.config.exit_codes import ConfigError, UserError
from tokenlane.config.settings.load import find_pool, pool_name
from tokenlane.routing.contract.errors import BadRequest, LaneConflict, LlmError, PoolKeyMismatch, PoolUnavailable
from tokenlane.routing.decide.policy import PolicyRefused
from tokenlane.routing.store.pool import Pool, connect
from tokenlane.routing.store.server.errors import is_unreachable
from tokenlane.routing.watch.parse_snapshot import take_snapshot

CONFIGURATION_ERRORS = (PoolUnavailable, PoolKeyMismatch, LaneConflict, BadRequest, PolicyRefused)
"""Errors that a wrong configuration causes, so running the command again cannot help."""

_Answer = TypeVar("_Answer")


def pool_session(
    redis: str | None,
    pool: str | None,
    ask: Callable[[Pool], Awaitable[_Answer]],
    timeout_s: float | None = None,
    *,
    greets: bool = True,
) -> _Answer:
    """Open the pool that a command's options name, ask it, and return its answer.

    Args:
        greets: whether the pool's server must answer before `ask` is called.

    Raises:
        UserError: no pool is configured, its server cannot be reached, or the pool answered with an error.
        TimeoutError: it took longer than `timeout_s`.
    """
    url, name = find_pool(redis).url, pool_name(pool)

    async def session() -> _Answer:
        async with asyncio.timeout(timeout_s), connect(url, name, greets=greets) as opened:
            return await ask(opened)

    with llm_errors_end_command():
        return asyncio.run(session())


async def check_readable(pool: Pool) -> None:
    """Check that this process may read the pool, unless the pool's server is away now.

    Raises:
        PoolUnavailable: the server refuses the user, the password or a command, or is no Redis server.
    """
    try:
        await pool.server.greet()
        await take_snapshot(pool)
    except LlmError as error:
        if not (error.retryable or is_unreachable(error)):
            raise


@contextmanager
def llm_errors_end_command() -> Iterator[None]:
    """Raise an `LlmError` from the block as the `UserError` that ends a command."""
    try:
        yield
    except LlmError as error:
        raise error_for_user(error) from error


def error_for_user(error: LlmError, message: str = "") -> UserError:
    """The error that ends a command. With `--json` it prints its code, and whether and when to try again.

    Args:
        message: what to print in place of the error's message.
    """
    facts = {**error.report().model_dump(exclude={"detail"}), "request_id": error.request_id or None}
    kind = ConfigError if isinstance(error, CONFIGURATION_ERRORS) else UserError
    return kind(message or str(error), facts)
