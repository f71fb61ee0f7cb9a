"""A cache of vectors in a SQLite file that all workers on a host share.

A read writes nothing; the time of use is noted and written with the next write, or when the cache closes. One task
writes behind the answers, many vectors in one transaction. Vectors that it cannot write in time are dropped. If the
file cannot be used, for whatever reason, one warning says so and this process goes on without a cache.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from itertools import islice
from pathlib import Path

import aiosqlite

from tokenlane.config.host.pool_key_files import PoolKey

from .sealed_rows import Origin, RowCodec

logger = logging.getLogger(__name__)

_OPEN_S = 5.0
_BUSY_MS = 200
_BUSY_PAUSE_S = 0.05
_CLOSE_S = 2.0
_READ_AT_ONCE = 500
_TOUCHED_AT_ONCE = 1_000
_TOUCHED_MOST = 20_000
_TOUCHED_AFTER_S = 60
"""How long after a recorded use the next use is not recorded."""
_UNWRITTEN_BYTES = 16 * 1024 * 1024
_UNWRITTEN_SHARE = 0.1
_FULL_SHARE, _KEPT_SHARE = 0.9, 0.8
"""Shares of the limit: above the first, vectors are evicted down to the second, so that few writes have to evict."""
_EVICTED_AT_ONCE = 128
_PAGE_BYTES = 8192
_LOG_BYTES = 4 * 1024 * 1024

_NEW_FILE = f"""
PRAGMA page_size = {_PAGE_BYTES};
PRAGMA auto_vacuum = INCREMENTAL;
PRAGMA journal_mode = WAL;
CREATE TABLE IF NOT EXISTS vectors (name BLOB PRIMARY KEY, vector BLOB NOT NULL, used INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS by_use ON vectors (used);
"""
_SETTINGS = f"""
PRAGMA synchronous = NORMAL;
PRAGMA journal_size_limit = {_LOG_BYTES};
SELECT name, vector, used FROM vectors LIMIT 1;
"""


class VectorCache:
    """One worker's access to the cache; `open_cache` opens it. Vectors are little-endian float32. `hits` and `misses`
    count the vectors it had and lacked."""

    def __init__(self, path: Path, limit_bytes: int, codec: RowCodec) -> None:
        self.hits = self.misses = 0
        self._path = path
        self._limit_pages = limit_bytes // _PAGE_BYTES
        self._most_unwritten = min(_UNWRITTEN_BYTES, int(limit_bytes * _UNWRITTEN_SHARE))
        self._codec = codec
        self._opened: aiosqlite.Connection | None = None
        self._file: aiosqlite.Connection | None = None  # None once it cannot be used
        self._unwritten: dict[bytes, bytes] = {}
        self._unwritten_bytes = 0
        self._touched: set[bytes] = set()
        self._work = asyncio.Event()
        self._closing = self._failing = False

    async def get(self, origin: Origin, texts: Sequence[str]) -> list[bytes | None]:
        """Return each text's vector, in their order; None where the cache has none. A failing file raises nothing."""
        name_of = self._codec.namer(origin)
        names = [name_of(text) for text in texts]
        vectors_by_name = {name: self._unwritten[name] for name in names if name in self._unwritten}
        missing = list(dict.fromkeys(name for name in names if name not in vectors_by_name))
        try:
            for start in range(0, len(missing), _READ_AT_ONCE):
                vectors_by_name |= await self._read(missing[start : start + _READ_AT_ONCE])
        except Exception as error:
            self._failed(error)
        vectors = [vectors_by_name.get(name) for name in names]
        misses = vectors.count(None)
        self.hits += len(vectors) - misses
        self.misses += misses
        return vectors

    def put(self, origin: Origin, texts: Sequence[str], vectors: Sequence[bytes]) -> None:
        """Keep the vectors: this worker has them at once, the others soon."""
        if self._file is None:
            return
        name_of = self._codec.namer(origin)
        for text, vector in zip(texts, vectors, strict=True):
            if self._unwritten_bytes + len(vector) > self._most_unwritten:
                break
            name = name_of(text)
            if name not in self._unwritten:
                self._unwritten_bytes += len(vector)
                self._unwritten[name] = vector
        self._work.set()

    async def _read(self, names: Sequence[bytes]) -> dict[bytes, bytes]:
        if self._file is None:
            return {}
        marks = ",".join("?" * len(names))
        rows = await self._file.execute_fetchall(
            f"SELECT name, vector, used FROM vectors WHERE name IN ({marks})", names
        )
        vectors_by_name, old = {}, time.time() - _TOUCHED_AFTER_S
        for name, row, used in rows:
            vector = self._codec.decode(name, row)
            if vector is not None:
                vectors_by_name[name] = vector
                if used < old and len(self._touched) < _TOUCHED_MOST:
                    self._touched.add(name)
        if len(self._touched) >= _TOUCHED_AT_ONCE:
            self._work.set()
        return vectors_by_name

    async def _open(self) -> None:
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            # Created here for its mode, which SQLite copies to its log.
            handle = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
            if os.name == "posix":
                os.fchmod(handle, 0o600)
            os.close(handle)
            self._opened = await aiosqlite.connect(self._path, isolation_level=None, timeout=_BUSY_MS / 1000)
            await _prepare(self._opened)
            self._file = self._opened
        except (sqlite3.Error, OSError) as error:
            self._give_up(error)

    async def _run(self) -> None:
        """Write waiting vectors until the cache closes, then write the rest."""
        while True:
            await self._work.wait()
            self._work.clear()
            while self._file is not None and (self._unwritten or self._touched):
                try:
                    await self._write(self._file)
                except Exception as error:
                    self._failed(error)
                    await asyncio.sleep(_BUSY_PAUSE_S)
            if self._closing:
                return

    async def _write(self, file: aiosqlite.Connection) -> None:
        vectors, touched, now = dict(self._unwritten), list(islice(self._touched, _TOUCHED_AT_ONCE)), int(time.time())
        # Views, because aiosqlite logs the arguments of each statement if its logger is on.
        rows = [(name, memoryview(self._codec.encode(name, vector)), now) for name, vector in vectors.items()]
        try:
            await file.execute("BEGIN IMMEDIATE")
            await file.executemany("INSERT OR REPLACE INTO vectors VALUES (?, ?, ?)", rows)
            await file.executemany("UPDATE vectors SET used = ? WHERE name = ?", [(now, name) for name in touched])
            await file.execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):
                await file.execute("ROLLBACK")
            raise
        for name, vector in vectors.items():
            self._unwritten.pop(name, None)
            self._unwritten_bytes -= len(vector)
        self._touched.difference_update(touched)
        await self._make_room(file)

    async def _make_room(self, file: aiosqlite.Connection) -> None:
        if await _pages_in_use(file) > self._limit_pages * _FULL_SHARE:
            while await _pages_in_use(file) > self._limit_pages * _KEPT_SHARE:
                async with file.execute(
                    "DELETE FROM vectors WHERE rowid IN (SELECT rowid FROM vectors ORDER BY used, rowid LIMIT ?)",
                    [_EVICTED_AT_ONCE],
                ) as deleted:
                    if deleted.rowcount < 1:
                        break
        if await _number(file, "PRAGMA page_count") > self._limit_pages:
            await file.executescript("PRAGMA incremental_vacuum")  # `execute` would stop after one page

    def _failed(self, error: Exception) -> None:
        if not _busy(error):
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        if not self._failing:
            logger.warning(
                "the vector cache %s cannot be used: %s. This worker goes on without it. Check the disk and the file's "
                "owner; if the file is damaged, remove it. Then start the worker again.",
                self._path,
                _reason(error),
            )
        self._failing, self._file = True, None
        self._unwritten.clear()
        self._touched.clear()


@asynccontextmanager
async def open_cache(path: Path, limit_bytes: int, key: PoolKey | None = None) -> AsyncIterator[VectorCache]:
    """Open the cache in that file, created with mode 0600 if needed. If it cannot be used, a warning is logged.

    Args:
        limit_bytes: the most the file may hold; a log of a few megabytes comes on top.
        key: the pool's. Without one, anybody with the file can read its vectors and guess its texts.
    """
    cache = VectorCache(path, limit_bytes, RowCodec(key))
    await cache._open()
    writing = asyncio.create_task(cache._run(), name="tokenlane vector cache")
    try:
        yield cache
    finally:
        cache._closing = True
        cache._work.set()
        await asyncio.wait({writing}, timeout=_CLOSE_S)
        writing.cancel()
        await asyncio.wait({writing})
        if cache._opened is not None:
            await cache._opened.close()
        if not writing.cancelled():
            writing.result()


async def _prepare(file: aiosqlite.Connection) -> None:
    # While another process prepares the file, SQLite reports it as locked at once instead of waiting.
    until = time.monotonic() + _OPEN_S
    while True:
        try:
            if not await _number(file, "SELECT COUNT(*) FROM sqlite_master"):
                await file.executescript(_NEW_FILE)
            await file.executescript(_SETTINGS)
            return
        except sqlite3.Error as error:
            if not _busy(error) or time.monotonic() > until:
                raise
        await asyncio.sleep(_BUSY_PAUSE_S)


def _reason(error: Exception) -> str:
    """The error for the log. An unexpected error shows only its class, because its text may quote an embedded text."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) if isinstance(error, sqlite3.Error) else type(error).__name__


def _busy(error: Exception) -> bool:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


async def _pages_in_use(file: aiosqlite.Connection) -> int:
    return await _number(file, "PRAGMA page_count") - await _number(file, "PRAGMA freelist_count")


async def _number(file: aiosqlite.Connection, question: str) -> int:
    ((number,),) = await file.execute_fetchall(question)
    return int(number)
