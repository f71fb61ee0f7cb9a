"""What the simulated back end does with one request."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, JsonValue

__all__ = ["Script"]


class Script(BaseModel):
    """One request's fate. Unset fields are the simulator's defaults; `*_after` count pieces of text already sent."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    # What the answer holds.
    tokens: int | None = None
    pieces: tuple[str, ...] | None = None
    """The text piece by piece, instead of `w0 `, `w1 ` and so on."""
    ttft_ms: float | None = None
    itl_ms: float | None = None
    answers_as: str | None = None
    """The model named in the answer, instead of the one asked for."""
    finish_reason: str | None = "stop"
    """None: the answer has no finish mark."""
    done: bool = True
    usage: bool = True
    split_bytes: int | None = None
    """Write this many bytes at a time, whatever they cut through."""

    # Instead of an answer.
    drop: bool = False
    """Close the connection without a word."""
    status: int | None = None
    retry_after: str | None = None
    location: str | None = None
    error: JsonValue = None
    """The body's or event's `error`, instead of a plain one."""
    content_type: str | None = None
    """Instead of the dialect's own."""

    # In the middle of it.
    hold_after: int | None = None
    """Wait here until released."""
    ping_ms: float | None = None
    """While waiting, send nothing in particular as often as this, as servers do to keep a connection open."""
    cut_after: int | None = None
    """Close the socket here, the body unfinished."""
    error_after: int | None = None
    """Send an error here, as the dialect does in mid-stream."""
    malformed_after: int | None = None
    """Send something here that is no JSON."""
    huge_line_after: int | None = None
    """Send a line of `huge_line_bytes` here."""
    huge_line_bytes: int = 9 * 1024 * 1024
