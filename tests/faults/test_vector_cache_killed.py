"""The cache of vectors under processes that are killed while they write."""

from __future__ import annotations

import hashlib
import random
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

from tokenlane.worker.embeddings.row_codec import Origin
from tokenlane.worker.embeddings.vector_cache import open_cache

MIB = 1024 * 1024
ROUNDS = 10
ORIGIN = Origin("test", "model", "build")

WRITES = """
import asyncio, hashlib, itertools, sys
from pathlib import Path
from tokenlane.worker.embeddings.vector_cache import open_cache
from tokenlane.worker.embeddings.row_codec import Origin

def vector(text):
    return hashlib.sha256(text.encode()).digest() * 50

async def main():
    path, who = Path(sys.argv[1]), sys.argv[2]
    async with open_cache(path, 1024 * 1024) as cache:
        for number in itertools.count():
            texts = [f"{who} {number} {part}" for part in range(20)]
            cache.put(Origin("test", "model", "build"), texts, [vector(text) for text in texts])
            while cache._unwritten:
                await asyncio.sleep(0)
            print(number, flush=True)

asyncio.run(main())
"""


def _vector(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest() * 50


def _writer(path: Path, who: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", WRITES, str(path), who], stdout=subprocess.PIPE, text=True)


async def test_a_writer_killed_in_the_middle_spoils_nothing(tmp_path: Path) -> None:
    """Two processes write, one is killed at any moment, again and again: the file stays sound and within its limit, the
    survivor goes on, and each vector that is given is that of its text."""
    path = tmp_path / "vectors.sqlite3"
    chance = random.Random(4)
    survivor = _writer(path, "survivor")
    assert survivor.stdout is not None
    try:
        for number in range(ROUNDS):
            victim = _writer(path, f"victim{number}")
            assert victim.stdout is not None
            with victim:
                victim.stdout.readline()
                for _ in range(chance.randrange(8)):
                    survivor.stdout.readline()
                victim.send_signal(signal.SIGKILL)
                rest = victim.stdout.read().split("\n")
            assert victim.returncode == -signal.SIGKILL
            last = int(survivor.stdout.readline())
            async with open_cache(path, MIB) as cache:
                # What a victim had said to be written is there, or was evicted since; what it had not may be.
                texts = [f"survivor {last} {part}" for part in range(20)]
                texts += [f"victim{number} {batch} {part}" for batch in range(len(rest) + 1) for part in range(20)]
                found = await cache.get(ORIGIN, texts)
            assert all(vector in (None, _vector(text)) for text, vector in zip(texts, found, strict=True))
            with closing(sqlite3.connect(path)) as file, file:
                assert file.execute("SELECT count(*) FROM vectors").fetchone() > (0,)
    finally:
        with survivor:
            survivor.kill()
    with closing(sqlite3.connect(path)) as file, file:
        assert file.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert path.stat().st_size <= MIB
