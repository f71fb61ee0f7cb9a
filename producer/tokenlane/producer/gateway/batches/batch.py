"""A batch as it lies in the operator's directory, and as OpenAI's API shows it."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from tokenlane.routing.contract.envelope import Quota

Status = Literal["validating", "failed", "in_progress", "completed", "expired", "cancelled"]
Ended = Literal["failed", "completed", "expired", "cancelled"]
_ENDED: frozenset[Status] = frozenset(("failed", "completed", "expired", "cancelled"))


class LineError(BaseModel):
    """What is wrong with a line of the input, without a word of it. `line`: its number, from 1."""

    model_config = ConfigDict(frozen=True)

    code: str
    message: str
    line: int | None = None
    param: str | None = None


class Batch(BaseModel):
    """A batch. Times are seconds since the epoch.

    Args:
        agent, role: whose batch it is, and the role of lines whose model names none.
        quota: the limit against which the lines count, as it was when the batch was created.
        output_id, error_id: the files that the gateway writes; a client sees them when they are complete.
        kept_s: how long the files are kept after the end.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)

    id: str
    agent: str
    role: str | None = None
    quota: Quota | None = None
    endpoint: str
    input_file_id: str
    completion_window: str
    output_id: str
    error_id: str
    kept_s: int
    metadata: dict[str, str] | None = Field(default=None, repr=False)
    status: Status = "validating"
    created_at: int
    expires_at: int
    in_progress_at: int | None = None
    ended_at: int | None = None
    total: int = 0
    completed: int = 0
    failed: int = 0
    errors: tuple[LineError, ...] = ()

    @property
    def has_ended(self) -> bool:
        return self.status in _ENDED

    def as_openai(self, cancelling_at: int | None) -> dict[str, object]:
        """The batch object of OpenAI's API. `cancelling_at`: when a client cancelled it; None if none did."""
        errors = [error.model_dump() for error in self.errors]
        is_over = self.has_ended and self.status != "failed"
        return {
            "id": self.id,
            "object": "batch",
            "endpoint": self.endpoint,
            "errors": {"object": "list", "data": errors} if errors else None,
            "input_file_id": self.input_file_id,
            "completion_window": self.completion_window,
            "status": "cancelling" if cancelling_at and not self.has_ended else self.status,
            "output_file_id": self.output_id if self.has_ended and self.completed else None,
            "error_file_id": self.error_id if self.has_ended and self.failed else None,
            "created_at": self.created_at,
            "in_progress_at": self.in_progress_at,
            "expires_at": self.expires_at,
            "finalizing_at": self.ended_at if is_over else None,
            **{f"{end}_at": self.ended_at if self.status == end else None for end in sorted(_ENDED)},
            "cancelling_at": cancelling_at,
            "request_counts": {"total": self.total, "completed": self.completed, "failed": self.failed},
            "metadata": self.metadata,
        }
