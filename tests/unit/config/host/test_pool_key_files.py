"""Pool keys as text, as rings and in files."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from tokenlane.config.exit_codes import ConfigError
from tokenlane.config.host.pool_key_files import (
    FILE_NAME,
    KeyRing,
    PoolKey,
    read_key_file,
    socket_keys,
    write_key_file,
)


def test_a_key_goes_through_its_text() -> None:
    """What is revealed can be pasted: it is the same key, with the same id."""
    key = PoolKey.new()
    assert PoolKey.parse(key.reveal()) == key
    assert key != PoolKey.new()


def test_the_id_is_that_of_the_key_for_ever() -> None:
    """Pools announce ids: another tokenlane must call the same key the same."""
    assert PoolKey(bytes(range(32))).id == "3f41451f79c49242"


def test_reprs_show_ids_only() -> None:
    """No repr or str of a key, a ring or its errors holds the secret."""
    key = PoolKey.new()
    ring = KeyRing((key,))
    shown = f"{key!r} {key} {ring!r} {ring}"
    assert key.id in shown
    assert key.reveal().removeprefix("tlk1-") not in shown
    assert repr(key.secret)[2:-1] not in shown


@pytest.mark.parametrize(
    "text",
    [
        "",
        "tlk1-",
        "s3cret",
        "tlk1-s3cret",
        "tlk2-" + "A" * 43,
        "tlk1-" + "A" * 42,
        "tlk1-" + "A" * 44,
        "tlk1-" + "é" * 43,
    ],
)
def test_what_is_no_key_is_refused_and_not_quoted(text: str) -> None:
    """Half a key, pasted, is told as such; its text is in no error."""
    with pytest.raises(ValueError, match=r"\b43\b") as refused:
        PoolKey.parse(text)
    assert "s3cret" not in str(refused.value)
    assert "A" * 42 not in str(refused.value)


def test_several_keys_in_one_text() -> None:
    """Commas, blanks and lines keep keys apart; their order stands, and a key counts once."""
    first, second = PoolKey.new(), PoolKey.new()
    ring = KeyRing.parse(f" {first.reveal()},{second.reveal()}\n", first.reveal())
    assert ring.keys == (first, second)
    assert KeyRing.parse(ring.reveal()) == ring
    assert ring.find(second.id) == second
    assert ring.find("0" * 16) is None
    assert KeyRing.parse("") == KeyRing()


def test_prepared_keys_stand_apart(tmp_path: Path) -> None:
    """They open, are handed out, and may not seal; an older version takes them for the oldest."""
    old, new = PoolKey.new(), PoolKey.new()
    ring = write_key_file(tmp_path / FILE_NAME, [old], [new])
    assert read_key_file(tmp_path / FILE_NAME) == ring
    assert (ring.ids, ring.all_ids, ring.find(new.id)) == ((old.id,), (old.id, new.id), new)
    assert KeyRing.parse(ring.reveal()).ids == (old.id, new.id)
    lines = (tmp_path / FILE_NAME).read_text().splitlines()
    assert KeyRing.parse(*(line for line in lines if not line.startswith("#"))).ids == (old.id, new.id)


def test_a_file_is_made_once_and_private(tmp_path: Path) -> None:
    """The first call makes it, mode 0600 whatever the umask; later calls read it."""
    path = tmp_path / "deep" / FILE_NAME
    before = os.umask(0)
    try:
        ring = write_key_file(path, [PoolKey.new()])
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_key_file(path) == ring
    assert [it.name for it in path.parent.iterdir()] == [FILE_NAME]


def test_a_key_is_not_overwritten(tmp_path: Path) -> None:
    """Where a key is, no other is put unless it is to be replaced."""
    path = tmp_path / FILE_NAME
    first, second = PoolKey.new(), PoolKey.new()
    ring = write_key_file(path, [first], replace=False)
    with pytest.raises(FileExistsError):
        write_key_file(path, [second], replace=False)
    assert read_key_file(path).keys == (first,)
    write_key_file(path, [second, first])
    assert ring.reread().keys == (second, first)
    assert [it.name for it in tmp_path.iterdir()] == [FILE_NAME]


def test_a_file_with_a_byte_order_mark(tmp_path: Path) -> None:
    """Editors on Windows put one in front; it is no part of the key."""
    path, key = tmp_path / FILE_NAME, PoolKey.new()
    path.touch(0o600)
    path.write_text(f"{key.reveal()}\n", encoding="utf-8-sig")
    assert read_key_file(path).keys == (key,)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_a_file_others_may_read_is_refused(tmp_path: Path, mode: int) -> None:
    """A key others may read is none: the error says which command mends it."""
    path = tmp_path / FILE_NAME
    write_key_file(path, [PoolKey.new()])
    path.chmod(mode)
    with pytest.raises(ConfigError, match=f"chmod 600 {path}"):
        read_key_file(path)


@pytest.mark.parametrize("content", [b"", b"# nothing\n", b"s3cret\n", b"\xff\xfe"])
def test_a_file_without_keys_is_refused(tmp_path: Path, content: bytes) -> None:
    """The error names the file, and quotes nothing of it."""
    path = tmp_path / FILE_NAME
    path.touch(0o600)
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=str(path)) as refused:
        read_key_file(path)
    assert "s3cret" not in str(refused.value)


def test_no_file(tmp_path: Path) -> None:
    """A file that is not there is told; a ring whose file went stays as it is."""
    with pytest.raises(ConfigError, match=f"{tmp_path / 'gone'}.*{os.strerror(errno.ENOENT)}"):
        read_key_file(tmp_path / "gone")
    ring = KeyRing((PoolKey.new(),), tmp_path / "gone")
    assert ring.reread() is ring


def test_the_key_beside_a_socket(tmp_path: Path) -> None:
    """A unix URL leads to the key file of its directory; every other URL to none."""
    folder = tmp_path / "with blank"
    ring = write_key_file(folder / FILE_NAME, [PoolKey.new()])
    path = str(folder / "redis.sock").replace(" ", "%20")
    for url in (f"unix://{path}?db=0", f"unix://:secret@{path}"):
        assert socket_keys(url) == ring
    for url in (f"unix://{tmp_path}/redis.sock", "unix://", "redis://localhost:6379", f"redis://{path}"):
        assert socket_keys(url) == KeyRing()


def test_a_key_file_that_cannot_be_looked_for_is_told(tmp_path: Path) -> None:
    """A socket's directory that leads nowhere does not pass for one without keys."""
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(ConfigError, match=rf"pool\.key\b.*{tmp_path}/loop.*TOKENLANE_POOL_KEY"):
        socket_keys(f"unix://{tmp_path}/loop/redis.sock")
