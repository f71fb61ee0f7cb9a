"""Fuzzes the readers of streams with atheris, which is no dependency of the project:

    pip install atheris
    python tests/fuzz/fuzz_readers.py [-max_total_time=60] [a folder of inputs]

The first bytes choose how the rest is cut. Anything but an `LlmError` is a crash, and so is an outcome that depends on
how the bytes were cut, or a reader that keeps more than its limit.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parents[2]))

with atheris.instrument_imports(include=["tokenlane.worker.providers"]):
    from tests.unit.worker.providers.test_any_split import read_ollama, read_openai

    from tokenlane.routing.contract.errors import UnreadableAnswer
    from tokenlane.worker.providers.parsing.ndjson import LineReader
    from tokenlane.worker.providers.parsing.sse import SseReader

LIMIT = 64


def one(data: bytes) -> None:
    """One input."""
    sizes, stream = data[:4], data[4:]
    chunks, start = [], 0
    while start < len(stream):
        size = 1 + sizes[start % len(sizes)] % 32
        chunks.append(stream[start : start + size])
        start += size
    for read in (read_openai, read_ollama):
        assert read(chunks) == read([stream])
    for reader in (SseReader(LIMIT), LineReader(LIMIT)):
        try:
            for chunk in chunks:
                reader.feed(chunk)
                assert reader._held_bytes <= LIMIT
        except UnreadableAnswer:
            pass


if __name__ == "__main__":
    atheris.Setup(sys.argv, one)
    atheris.Fuzz()
