"""Files of sealed records: nothing is readable without the key, and a torn end costs the torn record alone."""

from __future__ import annotations

import stat
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenlane.config.host.pool_key_files import KeyRing, PoolKey
from tokenlane.producer.gateway.files.sealed_log import HEADER_BYTES, SealedLog, Unreadable, read_records

KEY = PoolKey(bytes(range(32)))
KEYS = KeyRing((KEY,))


def written(path: Path, *records: bytes) -> list[int]:
    """Write a log with these records. Returns where each ends."""
    log = SealedLog.create(path, KEY)
    ends = []
    for mark, record in enumerate(records):
        log.append(mark, record)
        ends.append(path.stat().st_size)
    log.close()
    return ends


def contents(path: Path) -> list[tuple[int, bytes]]:
    return [(record.mark, record.data) for record in read_records(path, KEYS)]


@given(records=st.lists(st.binary(max_size=200), max_size=6), cut=st.floats(0, 1), junk=st.binary(max_size=40))
def test_a_torn_end_is_cut_off_and_written_over(records: list[bytes], cut: float, junk: bytes) -> None:
    """Wherever the file is cut, and whatever a lost page holds instead, all whole records stay, and others follow."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "a.data")
        ends = written(path, *records)
        size = HEADER_BYTES + int(cut * (path.stat().st_size - HEADER_BYTES))
        path.write_bytes(path.read_bytes()[:size] + junk)
        whole = [(mark, record) for mark, record in enumerate(records) if ends[mark] <= size]
        assert contents(path) == whole
        log, marks = SealedLog.resume(path, KEYS)
        assert marks == [(mark, len(record)) for mark, record in whole]
        log.append(99, b"next")
        log.close()
        assert contents(path) == [*whole, (99, b"next")]


@given(place=st.integers(0, 10_000), bit=st.integers(0, 7))
def test_no_changed_byte_is_read(place: int, bit: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "a.data")
        written(path, b"first record", b"second record")
        data = bytearray(path.read_bytes())
        data[place % len(data)] ^= 1 << bit
        path.write_bytes(data)
        try:
            read = contents(path)
        except Unreadable:
            read = []
        assert read == [(0, b"first record"), (1, b"second record")][: len(read)]
        assert len(read) < 2


def test_records_change_no_places(tmp_path: Path) -> None:
    path = tmp_path / "a.data"
    first, second = written(path, b"one", b"two")
    data = path.read_bytes()
    path.write_bytes(data[:HEADER_BYTES] + data[first:second] + data[HEADER_BYTES:first])
    assert contents(path) == []


def test_a_file_under_another_name_is_not_read(tmp_path: Path) -> None:
    written(tmp_path / "a.data", b"one")
    assert contents((tmp_path / "a.data").rename(tmp_path / "b.data")) == []


def test_nobody_else_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "a.data"
    written(path, b"a secret text")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert b"secret" not in path.read_bytes()
    with pytest.raises(Unreadable):
        list(read_records(path, KeyRing((PoolKey.new(),))))
