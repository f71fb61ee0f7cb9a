"""What is read for a user ends: whatever kind of file is named, and whoever names it."""

from __future__ import annotations

import errno
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tokenlane.benches.simulator import read_faults
from tokenlane.config.exit_codes import ConfigError
from tokenlane.config.host import bounded_files as bounded
from tokenlane.config.host.bounded_files import read_file, standard_input
from tokenlane.config.host.pool_key_files import read_key_file
from tokenlane.config.settings.read_layers import file_layer
from tokenlane.worker.providers.conformance.__main__ import _text_of
from tokenlane.worker.providers.http.certificates import tls_context

ZERO = Path("/dev/zero")


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded, "_SILENCE_S", 0.05)


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    return path


@pytest.mark.parametrize(("size", "fits"), [(0, True), (1, True), (100, True), (101, False), (5000, False)])
def test_a_file_is_read_whole_or_not_at_all(size: int, fits: bool, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * size)
    if fits:
        assert read_file(tmp_path / "file", 100) == b"x" * size
        return
    with pytest.raises(OSError, match="100") as refused:
        read_file(tmp_path / "file", 100)
    assert refused.value.errno == errno.EFBIG


def test_what_a_process_writes_is_read_to_its_end(pipe: Path) -> None:
    """As of a shell's <(command); who asks again is given the same, and not an empty file."""
    writer = threading.Thread(target=pipe.write_bytes, args=(b"x" * 200_000,))
    writer.start()
    # As the shell does it, the other end is open before.
    kept = os.open(pipe, os.O_RDONLY)
    try:
        for _ in range(2):  # settings are read more than once
            assert read_file(Path(f"/dev/fd/{kept}")) == b"x" * 200_000
    finally:
        os.close(kept)
        writer.join()


def unreadable(pipe: Path) -> Iterator[Path]:
    yield from (ZERO, pipe, pipe.parent, pipe.parent / "none")


READERS: dict[str, Callable[[Path], object]] = {
    "settings": file_layer,
    "keys": read_key_file,
    "faults": read_faults,
    "an API key": _text_of,
}


@pytest.mark.parametrize("reader", READERS.values(), ids=READERS)
def test_no_reader_reads_for_ever(reader: Callable[[Path], object], pipe: Path) -> None:
    """A device without an end, a pipe nobody writes to, a directory, nothing: one error that names the file."""
    for path in unreadable(pipe):
        with pytest.raises(ConfigError) as refused:
            reader(path)
        assert str(path) in str(refused.value)


def test_no_certificates_are_read_for_ever(pipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in unreadable(pipe):
        monkeypatch.setenv("SSL_CERT_FILE", str(path))
        with pytest.raises(ConfigError) as refused:
            tls_context("https")
        assert str(path) in str(refused.value)


@pytest.mark.parametrize("most", [16, bounded.MOST_BYTES])
def test_standard_input_has_a_bound(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    standard_input.cache_clear()
    with ZERO.open() as endless:
        monkeypatch.setattr("sys.stdin", endless)
        with pytest.raises(ConfigError, match=str(most)):
            standard_input(most)
    standard_input.cache_clear()


def test_a_socket_is_no_file(tmp_path: Path) -> None:
    """The error is that of the system, and comes at once."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        with pytest.raises(ConfigError):
            read_key_file(tmp_path / "socket")
