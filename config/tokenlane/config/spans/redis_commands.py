"""Whether this process records the Redis commands of requests as spans."""

from __future__ import annotations

from contextvars import ContextVar

RECORDED: ContextVar[bool] = ContextVar("whether Redis commands are recorded as spans", default=False)
"""`export_spans` sets it for the whole process, if the settings want it."""
