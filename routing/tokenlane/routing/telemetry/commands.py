"""The spans of Redis commands, if the settings want them: one for each script that runs on behalf of a request.

Commands that belong to no request have no span: beats, sweeps, and the publishes that all answers of a worker share.
OpenTelemetry's instrumentation of redis-py would not see any of these commands, since tokenlane does not send them
through redis-py's `execute_command`.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TypeVar

from opentelemetry import trace
from opentelemetry.trace import SpanKind

from tokenlane.config.spans.redis_commands import RECORDED
from tokenlane.routing.contract.errors import LlmError

from . import conventions as names
from .request import mark_failed
from .tracer import tracer

T = TypeVar("T")


def is_recorded() -> bool:
    """Whether a command that is sent now has a span."""
    return RECORDED.is_set() and trace.get_current_span().is_recording()


async def recorded(script: str, reply: Awaitable[T]) -> T:
    """Await the reply of a script within a span, which holds no argument of the script and no text of an error."""
    attributes = {names.DB_SYSTEM: "redis", names.DB_OPERATION: "EVALSHA", names.DB_PROCEDURE: script}
    with tracer().start_as_current_span(
        f"EVALSHA {script}",
        kind=SpanKind.CLIENT,
        attributes=attributes,
        record_exception=False,
        set_status_on_exception=False,
    ) as span:
        try:
            return await reply
        except LlmError as error:
            mark_failed(span, error.code)
            raise
