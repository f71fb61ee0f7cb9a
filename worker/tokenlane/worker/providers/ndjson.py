"""Reading a stream of lines, whatever way its bytes were cut into chunks."""

from __future__ import annotations

from tokenlane.routing.errors import ProviderDown

__all__ = ["MAX_LINE_BYTES", "LineReader"]

MAX_LINE_BYTES = 8 * 1024 * 1024


class LineReader:
    """Turns chunks of bytes into whole lines, which stay bytes: the JSON parser decodes them.

    Lines end in LF or CR LF; empty ones, and a last one without its end, are dropped.
    """

    def __init__(self, max_line_bytes: int = MAX_LINE_BYTES) -> None:
        self._max_bytes = max_line_bytes
        self._held: list[bytes] = []
        self._held_bytes = 0

    def feed(self, chunk: bytes) -> list[bytes]:
        """The lines that `chunk` completes.

        Raises:
            ProviderDown: a line, ended or not, is larger than the limit.
        """
        *lines, rest = chunk.split(b"\n")
        if lines and self._held:
            lines[0] = b"".join([*self._held, lines[0]])
            self._held.clear()
            self._held_bytes = 0
        if rest:
            self._held.append(rest)
            self._held_bytes += len(rest)
        return self._checked([line.removesuffix(b"\r") for line in lines])

    def _checked(self, lines: list[bytes]) -> list[bytes]:
        if max(self._held_bytes, *map(len, lines), 0) > self._max_bytes:
            raise ProviderDown(
                f"The back end sent a line larger than {self._max_bytes} bytes; is the endpoint a model server?",
                retryable=False,
            )
        return [line for line in lines if line]
