"""The fault script of a request, which says what goes wrong with it."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, JsonValue, Strict


class FaultScript(BaseModel):
    """The faults of one request. Without a value, a field leaves the behaviour of the simulator as it is.

    A fault `*_after` happens after this number of tokens, or for a pull after this number of lines of progress.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)  # `true` and "5" are not numbers

    # The content and pace of the answer.
    tokens: int | None = Field(None, ge=0)
    pieces: Annotated[tuple[str, ...], Strict(False)] | None = None  # files have lists
    """The tokens of the answer. Stop strings and limits do not apply to them."""
    ttft_ms: float | None = Field(None, ge=0)
    itl_ms: float | None = Field(None, ge=0)
    answers_as: str | None = None
    """The name of the model in the answer, in place of the requested name."""
    finish_reason: str | None = "stop"
    """The finish reason; `stop`: the real finish reason; None: the answer has no finish reason."""
    done: bool = True
    """Whether the stream ends with OpenAI's `[DONE]`."""
    usage: bool = True
    """Whether the answer has the numbers of tokens."""
    no_end: bool = False
    """End the stream without finish reason, usage and `[DONE]`, as if it were complete."""
    split_bytes: int | None = Field(None, ge=1)
    """Write this many bytes at a time, even in the middle of a UTF-8 character."""
    split_ms: float = Field(0, ge=0)
    """The pause between these writes."""

    # Failures instead of an answer.
    drop: bool = False
    """Close the connection without an answer."""
    status: int | None = Field(None, ge=200, le=599)
    retry_after: str | None = None
    location: str | None = None
    """Redirect to this URL, with status 307 if `status` is not set."""
    error: JsonValue = None
    """The `error` in the body or event, in place of the dialect's."""
    content_type: str | None = None
    """The content type, in place of the dialect's."""
    out_of_memory: bool = False
    """Fail to load the model."""
    unloaded: bool = False
    """Answer as if the model was not loaded."""
    gzip_bomb_bytes: int | None = Field(None, ge=1, le=1 << 34)
    """Send a compressed body that decompresses to this size."""
    endless_headers: bool = False
    """Send headers until the client disconnects."""

    # Failures in the middle of an answer.
    stall_after: int | None = Field(None, ge=0)
    """Pause here for `stall_ms`."""
    stall_ms: float = Field(1000, ge=0)
    hold_after: int | None = Field(None, ge=0)
    """Wait here until the test releases the request."""
    ping_ms: float | None = Field(None, gt=0)
    """While the request is held, send bytes without content at this interval, as real servers do for keep-alive."""
    half_open_after: int | None = Field(None, ge=0)
    """Send nothing more, as after a network failure. The slot becomes free, and the connection stays open."""
    cut_after: int | None = Field(None, ge=0)
    """Close the connection here, before the body is complete."""
    duplicate_after: int | None = Field(None, ge=1)
    """Send the last token a second time."""
    error_after: int | None = Field(None, ge=0)
    """Send an error as the dialect does in a stream. If nothing was sent before, the status is 500."""
    unload_after: int | None = Field(None, ge=0)
    """End the stream as the server does when it unloads the model."""
    malformed_after: int | None = Field(None, ge=0)
    """Send invalid JSON here."""
    huge_line_after: int | None = Field(None, ge=0)
    """Send a line with `huge_line_bytes` bytes here."""
    huge_line_bytes: int = Field(9 * 1024 * 1024, ge=1)
    endless_line_after: int | None = Field(None, ge=0)
    """Send an endless line here, until the client disconnects."""
    corrupt: bool = False
    """Pull files with a wrong hash."""

    def places(self) -> list[int]:
        """Return the numbers of tokens after which a fault happens, in order."""
        return sorted({value for name in _PLACES if (value := getattr(self, name)) is not None})


_PLACES = tuple(name for name in FaultScript.model_fields if name.endswith("_after"))
