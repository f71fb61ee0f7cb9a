"""An answer in the voice of a server."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from pydantic import JsonValue

from tokenlane.benches.simulator.dialects.encoder import Voice, quoted
from tokenlane.benches.simulator.model.answer import Answer

__all__ = ["ChatSpeech"]


class ChatSpeech:
    """What a `Stage` wants, of an answer and a voice."""

    def __init__(self, voice: Voice, answer: Answer) -> None:
        self._voice, self._answer, self._parts = voice, answer, answer.parts
        self.stream_type, self.late_head = voice.stream_type, voice.late_head
        self.ping, self.malformed, self.huge_start = voice.ping, voice.malformed, voice.huge_start

    @property
    def steps(self) -> int:
        """Its tokens."""
        return len(self._parts)

    def say(self) -> Iterator[bytes]:
        """Its tokens. Around text there is always the same."""
        voice, answer = self._voice, self._answer
        yield voice.first(answer, self._parts[0])
        before, after = voice.around(answer)
        for part in islice(self._parts, 1, None):
            yield before + quoted(part) + after if isinstance(part, str) else voice.frame(answer, part)

    def stop(self, finish: str, said: int) -> None:
        """End it here, for this reason."""
        self._answer.finish = finish
        del self._parts[said:]

    def ending(self) -> Iterator[bytes]:
        """See `Voice`."""
        return self._voice.ending(self._answer)

    def failing(self, status: int, error: JsonValue) -> Iterator[bytes]:
        """See `Voice`."""
        return self._voice.failing(status, error)

    def departed(self) -> Iterator[bytes]:
        """See `Voice`."""
        return self._voice.departed(self._answer)

    def whole(self) -> JsonValue:
        """See `Voice`."""
        return self._voice.whole(self._answer)

    def headers(self) -> dict[str, str]:
        """Of the answer that is not streamed."""
        return self._voice.headers(self._answer)
