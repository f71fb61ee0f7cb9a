"""A cache of vectors in a SQLite file that all workers on a host share.

Reading a vector does not write to the file: the time of its use is stored later, with the next write or when the cache
closes. A background task writes new vectors, many in one transaction. Vectors that arrive faster than it can write are
dropped. If the file cannot be used, the cache logs one warning and has no vectors from then on.
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

from .row_codec import Origin, RowCodec

logger = logging.getLogger(__name__)

_OPEN_S = 5.0
_BUSY_MS = 200
_BUSY_PAUSE_S = 0.05
_CLOSE_S = 2.0
_READ_AT_ONCE = 500
_USES_AT_ONCE = 1_000
_MAX_USES = 20_000
_USE_RECORDED_S = 60
"""How long after a stored time of use a new use is not stored."""
_UNWRITTEN_BYTES = 16 * 1024 * 1024
_UNWRITTEN_SHARE = 0.1
_FULL_SHARE, _KEPT_SHARE = 0.9, 0.8
"""Shares of the limit. A file above the first is reduced to the second, so that few writes have to evict vectors."""
_EVICTED_AT_ONCE = 128
_PAGE_BYTES = 8192
_WAL_BYTES = 4 * 1024 * 1024

_NEW_FILE = f"""
PRAGMA page_size = {_PAGE_BYTES};
PRAGMA auto_vacuum = INCREMENTAL;
PRAGMA journal_mode = WAL;
CREATE TABLE IF NOT EXISTS vectors (name BLOB PRIMARY KEY, vector BLOB NOT NULL, used INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS by_use ON vectors (used);
"""
_SETTINGS = f"""
PRAGMA synchronous = NORMAL;
PRAGMA journal_size_limit = {_WAL_BYTES};
SELECT name, vector, used FROM vectors LIMIT 1;
"""


class VectorCache:
    """One worker's access to the cache file. `open_cache` creates it. Vectors are little-endian float32.

    `hits` and `misses` count the vectors that `get` found and did not find.
    """

    def __init__(self, path: Path, limit_bytes: int, codec: RowCodec) -> None:
        self.hits = self.misses = 0
        self._path = path
        self._limit_pages = limit_bytes // _PAGE_BYTES
        self._max_unwritten_bytes = min(_UNWRITTEN_BYTES, int(limit_bytes * _UNWRITTEN_SHARE))
        self._codec = codec
        self._opened: aiosqlite.Connection | None = None
        self._file: aiosqlite.Connection | None = None  # None if it cannot be used
        self._unwritten: dict[bytes, bytes] = {}
        self._unwritten_bytes = 0
        self._used_names: set[bytes] = set()
        self._work = asyncio.Event()
        self._closing = self._is_disabled = False

    async def get(self, origin: Origin, texts: Sequence[str]) -> list[bytes | None]:
        """Return a vector, or None if the cache has none, for each text. Errors of the file are logged, not raised."""
        name_of = self._codec.namer(origin)
        names = [name_of(text) for text in texts]
        vectors_by_name = {name: self._unwritten[name] for name in names if name in self._unwritten}
        missing = list(dict.fromkeys(name for name in names if name not in vectors_by_name))
        try:
            for start in range(0, len(missing), _READ_AT_ONCE):
                vectors_by_name |= await self._read(missing[start : start + _READ_AT_ONCE])
        except Exception as error:
            self._handle_error(error)
        vectors = [vectors_by_name.get(name) for name in names]
        misses = vectors.count(None)
        self.hits += len(vectors) - misses
        self.misses += misses
        return vectors

    def put(self, origin: Origin, texts: Sequence[str], vectors: Sequence[bytes]) -> None:
        """Store the vectors. This worker can get them at once, other workers after the next write."""
        if self._file is None:
            return
        name_of = self._codec.namer(origin)
        for text, vector in zip(texts, vectors, strict=True):
            if self._unwritten_bytes + len(vector) > self._max_unwritten_bytes:
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
        vectors_by_name, old = {}, time.time() - _USE_RECORDED_S
        for name, row, used in rows:
            vector = self._codec.decode(name, row)
            if vector is not None:
                vectors_by_name[name] = vector
                if used < old and len(self._used_names) < _MAX_USES:
                    self._used_names.add(name)
        if len(self._used_names) >= _USES_AT_ONCE:
            self._work.set()
        return vectors_by_name

    async def _open(self) -> None:
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            # The file is created here to set its mode, which SQLite copies to its write-ahead log.
            handle = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
            if os.name == "posix":
                os.fchmod(handle, 0o600)
            os.close(handle)
            self._opened = await aiosqlite.connect(self._path, isolation_level=None, timeout=_BUSY_MS / 1000)
            await _prepare(self._opened)
            self._file = self._opened
        except (sqlite3.Error, OSError) as error:
            self._disable(error)

    async def _run(self) -> None:
        """Write new vectors and times of use as they arrive. After the cache closes, write the rest and return."""
        while True:
            await self._work.wait()
            self._work.clear()
            while self._file is not None and (self._unwritten or self._used_names):
                try:
                    await self._write(self._file)
                except Exception as error:
                    self._handle_error(error)
                    await asyncio.sleep(_BUSY_PAUSE_S)
            if self._closing:
                return

    async def _write(self, file: aiosqlite.Connection) -> None:
        vectors, used_names, now = (
            dict(self._unwritten),
            list(islice(self._used_names, _USES_AT_ONCE)),
            int(time.time()),
        )
        # Rows are views, because aiosqlite's debug log quotes the arguments of each statement.
        rows = [(name, memoryview(self._codec.encode(name, vector)), now) for name, vector in vectors.items()]
        try:
            await file.execute("BEGIN IMMEDIATE")
            await file.executemany("INSERT OR REPLACE INTO vectors VALUES (?, ?, ?)", rows)
            await file.executemany("UPDATE vectors SET used = ? WHERE name = ?", [(now, name) for name in used_names])
            await file.execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):
                await file.execute("ROLLBACK")
            raise
        for name, vector in vectors.items():
            self._unwritten.pop(name, None)
            self._unwritten_bytes -= len(vector)
        self._used_names.difference_update(used_names)
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
        if await _query_number(file, "PRAGMA page_count") > self._limit_pages:
            await file.executescript("PRAGMA incremental_vacuum")  # `execute` would stop after one page

    def _handle_error(self, error: Exception) -> None:
        if not _is_busy(error):
            self._disable(error)

    def _disable(self, error: Exception) -> None:
        if not self._is_disabled:
            logger.warning(
                "the vector cache %s cannot be used: %s. This worker continues without it. Check the disk and the "
                "file's owner, remove the file if it is damaged, and restart the worker.",
                self._path,
                _describe_error(error),
            )
        self._is_disabled, self._file = True, None
        self._unwritten.clear()
        self._used_names.clear()


@asynccontextmanager
async def open_cache(path: Path, limit_bytes: int, key: PoolKey | None = None) -> AsyncIterator[VectorCache]:
    """Open the cache file, or create it with mode 0600. If that fails, a warning is logged and the cache is empty.

    Args:
        limit_bytes: the limit for the file's size. Its write-ahead log adds a few megabytes.
        key: the pool's key. Without a key, anybody who can read the file can read its vectors and guess its texts.
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
            if not await _query_number(file, "SELECT COUNT(*) FROM sqlite_master"):
                await file.executescript(_NEW_FILE)
            await file.executescript(_SETTINGS)
            return
        except sqlite3.Error as error:
            if not _is_busy(error) or time.monotonic() > until:
                raise
        await asyncio.sleep(_BUSY_PAUSE_S)


def _describe_error(error: Exception) -> str:
    """Describe the error for the log. Of an unexpected error, only the class is shown: its text may quote a request."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) if isinstance(error, sqlite3.Error) else type(error).__name__


def _is_busy(error: Exception) -> bool:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


async def _pages_in_use(file: aiosqlite.Connection) -> int:
    return await _query_number(file, "PRAGMA page_count") - await _query_number(file, "PRAGMA freelist_count")


async def _query_number(file: aiosqlite.Connection, statement: str) -> int:
    ((number,),) = await file.execute_fetchall(statement)
    return int(number)
