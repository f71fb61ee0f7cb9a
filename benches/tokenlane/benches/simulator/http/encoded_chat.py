"""The answer to a chat in a dialect's encoding, for a `Player`."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from pydantic import JsonValue

from tokenlane.benches.simulator.dialects.encoder import Encoder, quoted
from tokenlane.benches.simulator.model.answer import SimulatedAnswer


class EncodedChat:
    """An answer and its encoder, which together are `Encoded`."""

    def __init__(self, encoder: Encoder, answer: SimulatedAnswer) -> None:
        self._encoder, self._answer, self._parts = encoder.of(answer), answer, answer.parts
        self.stream_type, self.late_head = encoder.stream_type, encoder.late_head
        self.ping, self.malformed, self.huge_start = encoder.ping, encoder.malformed, encoder.huge_start

    @property
    def steps(self) -> int:
        """The number of tokens."""
        return len(self._parts)

    def frames(self) -> Iterator[bytes]:
        """Yield the encoded tokens. Where the bytes around a text are always the same, they are computed only once."""
        encoder, answer = self._encoder, self._answer
        yield encoder.first_piece(answer, self._parts[0])
        around = encoder.text_frame(answer)
        for part in islice(self._parts, 1, None):
            if around is not None and isinstance(part, str):
                yield around[0] + quoted(part) + around[1]
            else:
                yield encoder.piece(answer, part)

    def stop(self, finish: str, sent: int) -> None:
        """End the answer after the tokens that were sent, with this finish reason."""
        self._answer.finish = finish
        del self._parts[sent:]

    def ending(self) -> Iterator[bytes]:
        """Yield the bytes after the last token."""
        return self._encoder.ending(self._answer)

    def error_bytes(self, status: int, error: JsonValue) -> Iterator[bytes]:
        """Yield an error in the stream, and the end of the stream."""
        return self._encoder.error_bytes(status, error)

    def unloaded(self) -> Iterator[bytes]:
        """Yield the end of a stream whose model is unloaded."""
        return self._encoder.unloaded(self._answer)

    def unstreamed_body(self) -> JsonValue:
        """Return the body of the answer without a stream."""
        return self._encoder.unstreamed_body(self._answer)

    def headers(self) -> dict[str, str]:
        """Return the headers of an answer without a stream."""
        return self._encoder.headers(self._answer)
