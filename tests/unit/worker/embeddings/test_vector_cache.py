"""The cache of vectors: what it gives back, what it keeps, and how it takes a file that cannot be used."""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import stat
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenlane.config.host.pool_key_files import PoolKey
from tokenlane.worker.embeddings.row_codec import Origin, RowCodec
from tokenlane.worker.embeddings.vector_cache import VectorCache, open_cache

MIB = 1024 * 1024
HERE = Origin("ollama", "nomic-embed-text", "sha256:1234")


def vector(text: str) -> bytes:
    return text.encode().ljust(64, b"\0")[:64]


async def written(path: Path, count: int) -> None:
    """Wait until the file holds so many vectors."""
    async with asyncio.timeout(10):
        while _rows(path) < count:
            await asyncio.sleep(0.01)


def _rows(path: Path) -> int:
    with closing(sqlite3.connect(path)) as file, file:
        return int(file.execute("SELECT COUNT(*) FROM vectors").fetchone()[0])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "data" / "vectors.sqlite3"


@pytest.mark.parametrize("key", [None, PoolKey(bytes(32))], ids=["open", "sealed"])
async def test_another_process_finds_what_one_has_put(file: Path, key: PoolKey | None) -> None:
    """What was put is there at once for this worker, and after the end for the next; order is that of the question."""
    async with open_cache(file, MIB, key) as one:
        one.put(HERE, ["a", "b"], [vector("a"), vector("b")])
        assert await one.get(HERE, ["b", "x", "a"]) == [vector("b"), None, vector("a")]
    async with open_cache(file, MIB, key) as next_one:
        assert await next_one.get(HERE, ["x", "b", "a", "b"]) == [None, vector("b"), vector("a"), vector("b")]
        assert (next_one.hits, next_one.misses) == (3, 1)


async def test_what_made_a_vector_is_part_of_its_name(file: Path) -> None:
    """Another provider, model, build or parameter is another vector; no field can pass for its neighbour."""
    others = [
        Origin("vllm", HERE.model, HERE.build),
        Origin(HERE.provider, "other", HERE.build),
        Origin(HERE.provider, HERE.model, "sha256:5678"),
        Origin(HERE.provider, HERE.model, HERE.build, '{"dimensions":64}'),
        Origin(HERE.provider, HERE.model + HERE.build, ""),
    ]
    async with open_cache(file, MIB) as cache:
        cache.put(HERE, ["a"], [vector("a")])
        for other in others:
            assert await cache.get(other, ["a"]) == [None]


async def test_the_file_tells_no_text_and_with_a_key_no_vector(file: Path) -> None:
    """Texts are not in the file. With a pool key neither is the vector, nor a name that can be computed without it."""
    text, secret = "the secret question", b"a vector of exactly 32 bytes, ok"
    async with open_cache(file, MIB, PoolKey(b"k" * 32)) as cache:
        cache.put(HERE, [text], [secret])
    content = b"".join(path.read_bytes() for path in file.parent.iterdir())
    assert text.encode() not in content
    assert secret not in content
    assert RowCodec(None).namer(HERE)(text) not in content
    async with open_cache(file, MIB, PoolKey(b"l" * 32)) as cache:
        assert await cache.get(HERE, [text]) == [None]


@pytest.mark.parametrize("key", [None, PoolKey(bytes(32))], ids=["open", "sealed"])
async def test_a_row_that_was_changed_is_not_given(file: Path, key: PoolKey | None) -> None:
    """A vector that was altered in the file, or moved to another name, counts as absent."""
    async with open_cache(file, MIB, key) as cache:
        cache.put(HERE, ["a", "b"], [vector("a"), vector("b")])
    with closing(sqlite3.connect(file, isolation_level=None)) as raw, raw:
        (first,), (second,) = raw.execute("SELECT vector FROM vectors ORDER BY rowid").fetchall()
        async with open_cache(file, MIB, key) as cache:
            assert await cache.get(HERE, ["a", "b"]) == [vector("a"), vector("b")]
            raw.execute("UPDATE vectors SET vector = ?", [first[:-1] + bytes([first[-1] ^ 1])])
            assert await cache.get(HERE, ["a", "b"]) == [None, None]
            raw.execute("UPDATE vectors SET vector = ?", [second])
            assert await cache.get(HERE, ["a", "b"]) == [None, vector("b")]


async def test_no_log_holds_a_text_or_a_vector(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Neither ours nor SQLite's adapter's, at any level."""
    with caplog.at_level(logging.DEBUG):
        async with open_cache(file, MIB) as cache:
            cache.put(HERE, ["the secret question"], [b"marked vector..."])
        async with open_cache(file, MIB) as cache:
            assert await cache.get(HERE, ["the secret question"]) == [b"marked vector..."]
    assert "INSERT" in caplog.text
    assert "secret" not in caplog.text
    assert "marked" not in caplog.text


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX's")
async def test_only_the_user_may_read_it(file: Path) -> None:
    """The file and its log have mode 0600, also if the file was there with another."""
    file.parent.mkdir()
    file.touch(mode=0o644)
    async with open_cache(file, MIB) as cache:
        cache.put(HERE, ["a"], [vector("a")])
        await written(file, 1)
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in file.parent.iterdir()}
    assert set(modes.values()) == {0o600}
    assert len(modes) > 1


async def test_the_file_stays_within_its_limit_and_keeps_what_is_used(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However much is put, the file is not larger than the limit; what was read lately stays, what was not goes."""
    now = 1_000_000.0
    monkeypatch.setattr(time, "time", lambda: now)
    limit = 2 * MIB
    async with open_cache(file, limit) as cache:
        cache.put(HERE, ["kept", "forgotten"], [bytes(3000), bytes(3000)])
        await written(file, 2)
        for batch in range(50):
            now += 100
            texts = [f"{batch}/{number}" for number in range(40)]
            cache.put(HERE, texts, [bytes(3000)] * 40)
            await _quiet(cache._unwritten.__len__)
            assert await cache.get(HERE, ["kept"]) == [bytes(3000)]
        assert await cache.get(HERE, ["forgotten"]) == [None]
        assert (await cache.get(HERE, ["49/39"]))[0] is not None
    assert file.stat().st_size <= limit


async def test_reading_writes_only_now_and_then(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand reads of what is there change the file by one write, at the end."""
    now = 1_000_000.0
    monkeypatch.setattr(time, "time", lambda: now)
    async with open_cache(file, MIB) as cache:
        cache.put(HERE, ["a"], [vector("a")])
    now += 3600
    with closing(sqlite3.connect(file)) as raw, raw:
        async with open_cache(file, MIB) as cache:
            before = raw.execute("PRAGMA data_version").fetchone()
            for _ in range(1000):
                await cache.get(HERE, ["a"])
            assert raw.execute("PRAGMA data_version").fetchone() == before
        assert raw.execute("PRAGMA data_version").fetchone() != before
        assert raw.execute("SELECT used FROM vectors").fetchall() == [(int(now),)]


async def test_a_smaller_limit_makes_the_file_smaller(file: Path) -> None:
    """A file of a larger limit shrinks with the next write."""
    async with open_cache(file, 8 * MIB) as cache:
        for batch in range(8):
            cache.put(HERE, [f"{batch}/{number}" for number in range(200)], [bytes(2500)] * 200)
            await _quiet(cache._unwritten.__len__)
    async with open_cache(file, MIB) as cache:
        cache.put(HERE, ["a"], [vector("a")])
    assert file.stat().st_size <= MIB


def _not_a_database(path: Path) -> None:
    path.write_bytes(b"no database, but long enough to be looked at" * 1000)


def _a_folder(path: Path) -> None:
    path.mkdir()


def _another_table(path: Path) -> None:
    with closing(sqlite3.connect(path)) as file, file:
        file.execute("CREATE TABLE vectors (something TEXT)")
    file.close()


def _folder_is_a_file(path: Path) -> None:
    path.parent.rmdir()
    path.parent.write_text("")


@pytest.mark.parametrize("spoil", [_not_a_database, _a_folder, _another_table, _folder_is_a_file])
async def test_a_file_that_cannot_be_used_is_told_of_once(
    file: Path, spoil: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    """The worker goes on without a cache, and says so once, with the file's name."""
    file.parent.mkdir()
    spoil(file)
    with caplog.at_level(logging.WARNING):
        async with open_cache(file, MIB) as cache:
            for _ in range(3):
                cache.put(HERE, ["a"], [vector("a")])
                assert await cache.get(HERE, ["a"]) == [None]
    assert len(caplog.records) == 1
    assert str(file) in caplog.text


async def test_a_file_damaged_while_it_is_open_is_told_of_once(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Damage that shows only later ends the cache in the same way, whoever meets it, reader or writer."""
    async with open_cache(file, MIB) as cache:
        cache.put(HERE, [str(number) for number in range(100)], [bytes(60)] * 100)
    content = file.read_bytes()
    file.write_bytes(content[:8192] + b"\xa5" * (len(content) - 8192))
    with caplog.at_level(logging.WARNING):
        async with open_cache(file, MIB) as cache:
            for number in range(3):
                assert await cache.get(HERE, ["1"]) == [None]
                cache.put(HERE, [f"new {number}"], [bytes(60)])
                await _quiet(cache._unwritten.__len__)
    assert len(caplog.records) == 1


@pytest.mark.parametrize("failing", ["_read", "_write"])
async def test_an_error_that_nobody_expects_is_told_of_once(
    file: Path, failing: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """One that is not SQLite's ends the cache in the same way; its text, which may quote anything, is in no log."""

    async def fail(*_: object) -> None:
        raise ValueError("a marked text")

    monkeypatch.setattr(VectorCache, failing, fail)
    with caplog.at_level(logging.WARNING):
        async with asyncio.timeout(10), open_cache(file, MIB) as cache:
            for _ in range(3):
                cache.put(HERE, ["a"], [vector("a")])
                await cache.get(HERE, ["b"])
                await _quiet(cache._unwritten.__len__)
            assert await cache.get(HERE, ["a"]) == [None]
    assert len(caplog.records) == 1
    assert "ValueError" in caplog.text
    assert "marked" not in caplog.text


async def test_a_file_that_others_hold_is_waited_for_by_nobody(file: Path) -> None:
    """While another process writes, opening, putting and reading go on; what was put is written when it is done."""
    async with open_cache(file, MIB):
        pass
    with closing(sqlite3.connect(file, isolation_level=None)) as raw, raw:
        raw.execute("BEGIN IMMEDIATE")
        async with open_cache(file, MIB) as cache:
            cache.put(HERE, ["a"], [vector("a")])
            assert await cache.get(HERE, ["a", "b"]) == [vector("a"), None]
            raw.execute("ROLLBACK")
            await written(file, 1)


async def test_what_cannot_be_written_in_time_is_dropped(file: Path) -> None:
    """The memory for what waits to be written is bounded."""
    async with open_cache(file, MIB) as cache:
        for number in range(1000):
            cache.put(HERE, [str(number)], [bytes(1000)])
        assert cache._unwritten_bytes <= MIB // 10
        assert await cache.get(HERE, ["999"]) == [None]
        await _quiet(cache._unwritten.__len__)
        assert cache._unwritten_bytes == 0


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.lists(st.text(max_size=3), max_size=8)), max_size=12))
async def test_it_gives_what_was_put_or_nothing(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[bool, list[str]]]
) -> None:
    """Any sequence of puts and gets: a vector that is given is that of its text; one that was put is given."""
    known: set[str] = set()
    async with open_cache(tmp_path_factory.mktemp("cache") / "vectors.sqlite3", MIB) as cache:
        for puts, texts in steps:
            if puts:
                cache.put(HERE, texts, [vector(text) for text in texts])
                known |= set(texts)
            else:
                wanted = [vector(text) if text in known else None for text in texts]
                assert await cache.get(HERE, texts) == wanted


async def _quiet(left: Callable[[], int]) -> None:
    async with asyncio.timeout(10):
        while left():
            await asyncio.sleep(0.001)
