"""An error of the pool, as the end of a command."""

from __future__ import annotations

from tokenlane.config.exit_codes import ConfigError, UserError
from tokenlane.routing.contract.errors import BadRequest, LaneConflict, LlmError, PoolKeyMismatch, PoolUnavailable

__all__ = ["SET_WRONGLY", "as_user_error"]

SET_WRONGLY = (PoolUnavailable, PoolKeyMismatch, LaneConflict, BadRequest)
"""What another try cannot help."""


def as_user_error(error: LlmError, message: str = "") -> UserError:
    """The error for whoever ran the command; `--json` writes its code, and whether and when to try again.

    Args:
        message: what people are told, if it is more than the error says.
    """
    facts = error.report().model_dump(exclude={"detail"})
    kind = ConfigError if isinstance(error, SET_WRONGLY) else UserError
    return kind(message or str(error), facts)
