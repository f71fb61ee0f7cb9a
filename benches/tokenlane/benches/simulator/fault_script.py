"""The fault script of one request: what goes wrong with it."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, JsonValue, Strict


class FaultScript(BaseModel):
    """What goes wrong with one request. Unset fields are the simulator's defaults.

    `*_after` count tokens already sent, of a pull its lines of progress.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)  # `true` is no number, nor is "5"

    # What the answer holds.
    tokens: int | None = Field(None, ge=0)
    pieces: Annotated[tuple[str, ...], Strict(False)] | None = None  # a list in a file
    """The text token by token, as it is: stop strings and limits do not apply."""
    ttft_ms: float | None = Field(None, ge=0)
    itl_ms: float | None = Field(None, ge=0)
    answers_as: str | None = None
    """The model named in the answer, instead of the one asked for."""
    finish_reason: str | None = "stop"
    """None: the answer has no finish mark. Set otherwise, it replaces the true one."""
    done: bool = True
    """OpenAI's `[DONE]` at the end."""
    usage: bool = True
    no_end: bool = False
    """Neither finish mark nor usage nor `[DONE]`: the stream ends as if it were whole."""
    split_bytes: int | None = Field(None, ge=1)
    """Write this many bytes at a time, whatever they cut through: 1 splits every UTF-8 character."""
    split_ms: float = Field(0, ge=0)
    """Pause between these."""

    # Instead of an answer.
    drop: bool = False
    """Close the connection without a word."""
    status: int | None = Field(None, ge=200, le=599)
    retry_after: str | None = None
    location: str | None = None
    """Redirect there; with 307, if no status is set."""
    error: JsonValue = None
    """The body's or event's `error`, instead of the dialect's own."""
    content_type: str | None = None
    """Instead of the dialect's own."""
    out_of_memory: bool = False
    """Loading the model fails."""
    unloaded: bool = False
    """The model is not there any more."""
    gzip_bomb_bytes: int | None = Field(None, ge=1, le=1 << 34)
    """A compressed body that grows to this size."""
    endless_headers: bool = False
    """Headers until the client goes."""

    # In the middle of it.
    stall_after: int | None = Field(None, ge=0)
    """Pause here for `stall_ms`."""
    stall_ms: float = Field(1000, ge=0)
    hold_after: int | None = Field(None, ge=0)
    """Wait here until released."""
    ping_ms: float | None = Field(None, gt=0)
    """While waiting, send nothing in particular as often as this, as servers do to keep a connection open."""
    half_open_after: int | None = Field(None, ge=0)
    """Be silent from here on, as if the network were gone: the slot is free, the connection stays."""
    cut_after: int | None = Field(None, ge=0)
    """Close the socket here, the body unfinished."""
    duplicate_after: int | None = Field(None, ge=1)
    """Send the last token once more here."""
    error_after: int | None = Field(None, ge=0)
    """Send an error here, as the dialect does in mid-stream: 500 where it says a status."""
    unload_after: int | None = Field(None, ge=0)
    """The model goes away here, as the dialect says that."""
    malformed_after: int | None = Field(None, ge=0)
    """Send something here that is no JSON."""
    huge_line_after: int | None = Field(None, ge=0)
    """Send a line of `huge_line_bytes` here."""
    huge_line_bytes: int = Field(9 * 1024 * 1024, ge=1)
    endless_line_after: int | None = Field(None, ge=0)
    """Send a line here until the client goes."""
    corrupt: bool = False
    """What is pulled does not have the hash it should."""

    def places(self) -> list[int]:
        """Return the tokens before which something happens, in order."""
        return sorted({value for name in _PLACES if (value := getattr(self, name)) is not None})


_PLACES = tuple(name for name in FaultScript.model_fields if name.endswith("_after"))
