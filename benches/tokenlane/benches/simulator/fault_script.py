"""The fault script of one request: what goes wrong with it."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, JsonValue, Strict


class FaultScript(BaseModel):
    """The faults of one request. Fields that are not set have the simulator's defaults.

    A fault `*_after` happens after that number of tokens, or, for a pull, of lines of progress.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)  # `true` is no number, nor is "5"

    # What the answer holds.
    tokens: int | None = Field(None, ge=0)
    pieces: Annotated[tuple[str, ...], Strict(False)] | None = None  # a list in a file
    """The tokens of the answer. Stop strings and limits do not apply to them."""
    ttft_ms: float | None = Field(None, ge=0)
    itl_ms: float | None = Field(None, ge=0)
    answers_as: str | None = None
    """The model's name in the answer, in place of the requested model."""
    finish_reason: str | None = "stop"
    """The finish reason in place of the true finish reason; None: the answer has no finish reason."""
    done: bool = True
    """Whether the stream ends with OpenAI's `[DONE]`."""
    usage: bool = True
    no_end: bool = False
    """End the stream without finish reason, usage and `[DONE]`, as if it were complete."""
    split_bytes: int | None = Field(None, ge=1)
    """Write this many bytes at a time, even if this cuts characters: 1 splits every UTF-8 character."""
    split_ms: float = Field(0, ge=0)
    """The pause between these writes."""

    # Instead of an answer.
    drop: bool = False
    """Close the connection without an answer."""
    status: int | None = Field(None, ge=200, le=599)
    retry_after: str | None = None
    location: str | None = None
    """Redirect to this URL, with status 307 if `status` is not set."""
    error: JsonValue = None
    """The `error` in the body or event, in place of the dialect's error."""
    content_type: str | None = None
    """The content type, in place of the dialect's."""
    out_of_memory: bool = False
    """Loading the model fails."""
    unloaded: bool = False
    """Answer as if the model had been removed."""
    gzip_bomb_bytes: int | None = Field(None, ge=1, le=1 << 34)
    """Send a compressed body that decompresses to this size."""
    endless_headers: bool = False
    """Send headers until the client disconnects."""

    # In the middle of the answer.
    stall_after: int | None = Field(None, ge=0)
    """Pause here for `stall_ms`."""
    stall_ms: float = Field(1000, ge=0)
    hold_after: int | None = Field(None, ge=0)
    """Wait here until released."""
    ping_ms: float | None = Field(None, gt=0)
    """While a request waits, send bytes without content at this interval, as servers do to keep a connection open."""
    half_open_after: int | None = Field(None, ge=0)
    """Send nothing from here on, as after a network failure: the slot becomes free, and the connection stays open."""
    cut_after: int | None = Field(None, ge=0)
    """Close the connection here, before the body is complete."""
    duplicate_after: int | None = Field(None, ge=1)
    """Send the last token a second time."""
    error_after: int | None = Field(None, ge=0)
    """Send an error here, as the dialect does during a stream. Its status, if it has one, is 500."""
    unload_after: int | None = Field(None, ge=0)
    """Unload the model here, and end the stream as the server does then."""
    malformed_after: int | None = Field(None, ge=0)
    """Send invalid JSON here."""
    huge_line_after: int | None = Field(None, ge=0)
    """Send a line of `huge_line_bytes` here."""
    huge_line_bytes: int = Field(9 * 1024 * 1024, ge=1)
    endless_line_after: int | None = Field(None, ge=0)
    """Send an endless line here, until the client disconnects."""
    corrupt: bool = False
    """Pull files with a wrong hash."""

    def places(self) -> list[int]:
        """Return the tokens before which something happens, in order."""
        return sorted({value for name in _PLACES if (value := getattr(self, name)) is not None})


_PLACES = tuple(name for name in FaultScript.model_fields if name.endswith("_after"))
