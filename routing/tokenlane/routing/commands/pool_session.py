"""What a verb asks of a pool: connect, ask, and end the command with the pool's error if there is one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from tokenlane.config.exit_codes import ConfigError, UserError
from tokenlane.config.settings.values import RedisSettings
from tokenlane.routing.contract.errors import BadRequest, LaneConflict, LlmError, PoolKeyMismatch, PoolUnavailable
from tokenlane.routing.store.pool import Pool, connect

SET_WRONGLY = (PoolUnavailable, PoolKeyMismatch, LaneConflict, BadRequest)
"""What another try cannot help."""

_Answer = TypeVar("_Answer")


def pool_session(server: RedisSettings, pool_name: str, ask: Callable[[Pool], Awaitable[_Answer]]) -> _Answer:
    """Connect to a pool, ask it, and return its answer.

    Raises:
        UserError: the pool cannot be reached, or its answer was an error.
    """

    async def connected() -> _Answer:
        async with connect(server.url, pool_name) as pool:
            return await ask(pool)

    try:
        return asyncio.run(connected())
    except LlmError as error:
        raise as_user_error(error) from error


def as_user_error(error: LlmError, message: str = "") -> UserError:
    """The error for whoever ran the command; `--json` writes its code, and whether and when to try again.

    Args:
        message: what people are told, if it is more than the error says.
    """
    facts = error.report().model_dump(exclude={"detail"})
    kind = ConfigError if isinstance(error, SET_WRONGLY) else UserError
    return kind(message or str(error), facts)
