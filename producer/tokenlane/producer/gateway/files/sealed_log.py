"""Files of sealed records, to which records are appended.

    4 bytes `TLF1` | 16 hexadecimal digits: the id of the pool's key | 16 bytes random salt
    then each record: 4 bytes length of the ciphertext | 4 bytes mark | 12 bytes random nonce | AES-256-GCM ciphertext

Each file has a key of its own, which HKDF-SHA256 derives from the pool's key, the salt and the file's name. The
associated data of a record is its place and its mark, so no record can be moved, and none can be left out but the last.
A process that is killed, or a host that loses power, may leave a torn record at the end: whoever appends cuts it off.
"""

from __future__ import annotations

import os
import secrets
import struct
from collections.abc import Iterator
from io import BufferedReader, FileIO
from pathlib import Path
from typing import NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from tokenlane.config.host.pool_key_files import KeyRing, PoolKey

RECORD_LIMIT_BYTES = 64 * 1024 * 1024
"""The most that a record may hold. A greater length is no length: the record is damaged."""

_MAGIC = b"TLF1"
_KEY_ID_BYTES = 16
_SALT_BYTES = 16
HEADER_BYTES = len(_MAGIC) + _KEY_ID_BYTES + _SALT_BYTES
"""A shorter file has no record, and its head is torn."""
_HEAD = struct.Struct(">II12s")
_TAG_BYTES = 16


class Unreadable(Exception):
    """A file cannot be opened with the keys of this process, or is no file of sealed records."""


class Record(NamedTuple):
    """What was appended at once. `mark`: a number that the writer gave it, which is not sealed."""

    mark: int
    data: bytes


class SealedLog:
    """A file that is open for appending. Only one process may append to a file at a time.

    Args:
        file: the file, positioned at its end.
        records: how many records it has.
    """

    def __init__(self, file: FileIO, cipher: AESGCM, records: int) -> None:
        self._file, self._cipher, self._records = file, cipher, records

    @classmethod
    def create(cls, path: Path, key: PoolKey) -> SealedLog:
        """Create the file, with mode 0600.

        Raises:
            FileExistsError: the file exists.
            OSError: it cannot be written.
        """
        salt = secrets.token_bytes(_SALT_BYTES)
        file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600), "r+b", buffering=0)
        try:
            _write(file, _MAGIC + key.id.encode() + salt)
        except OSError:
            file.close()
            raise
        return cls(file, _cipher(key, salt, path), 0)

    @classmethod
    def resume(cls, path: Path, keys: KeyRing) -> tuple[SealedLog, list[tuple[int, int]]]:
        """Open an existing file, and cut off what does not belong to a whole record. Returns the mark and the size of
        each record too.

        Raises:
            Unreadable: this process has not the key, or the file's head is torn.
            OSError: the file cannot be read or written.
        """
        file = path.open("r+b", buffering=0)
        try:
            cipher = _opened(file, path, keys)
            records: list[tuple[int, int]] = []
            end = HEADER_BYTES
            for record, place in _records(file, cipher):
                records.append((record.mark, len(record.data)))
                end = place
            file.truncate(end)
            file.seek(end)
        except BaseException:
            file.close()
            raise
        return cls(file, cipher, len(records)), records

    def append(self, mark: int, data: bytes) -> None:
        """Append a record. It survives the end of this process, and after `flush` a loss of power.

        Raises:
            OSError: it cannot be written; what was written of it is cut off.
        """
        nonce = secrets.token_bytes(12)
        sealed = self._cipher.encrypt(nonce, data, _place(self._records, mark))
        before = self._file.tell()
        try:
            _write(self._file, _HEAD.pack(len(sealed), mark, nonce) + sealed)
        except OSError:
            self._file.truncate(before)
            self._file.seek(before)
            raise
        self._records += 1

    def flush(self) -> None:
        """Return once everything is on the disk."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_records(path: Path, keys: KeyRing) -> Iterator[Record]:
    """The whole records of a file, up to its end or to the first that is torn or changed.

    Raises:
        Unreadable: this process has not the key, or this is no such file.
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        cipher = _opened(file, path, keys)
        for record, _ in _records(file, cipher):
            yield record


def _opened(file: FileIO | BufferedReader, path: Path, keys: KeyRing) -> AESGCM:
    header = file.read(HEADER_BYTES)
    if len(header) < HEADER_BYTES or not header.startswith(_MAGIC):
        raise Unreadable(f"{path.name} is not a file of tokenlane's: a newer version wrote it, or it is damaged.")
    key_id = header[len(_MAGIC) : len(_MAGIC) + _KEY_ID_BYTES].decode("ascii", "replace")
    if (key := keys.find(key_id)) is None:
        raise Unreadable(f"{path.name} is sealed with a key of the pool that this process has not: give it that key.")
    return _cipher(key, header[-_SALT_BYTES:], path)


def _records(file: FileIO | BufferedReader, cipher: AESGCM) -> Iterator[tuple[Record, int]]:
    """Each whole record, and where it ends."""
    place, end = 0, HEADER_BYTES
    while len(head := file.read(_HEAD.size)) == _HEAD.size:
        length, mark, nonce = _HEAD.unpack(head)
        if not _TAG_BYTES <= length <= RECORD_LIMIT_BYTES + _TAG_BYTES or len(sealed := file.read(length)) < length:
            return
        try:
            data = cipher.decrypt(nonce, sealed, _place(place, mark))
        except (InvalidTag, ValueError):
            return
        place, end = place + 1, end + _HEAD.size + length
        yield Record(mark, data), end


def _cipher(key: PoolKey, salt: bytes, path: Path) -> AESGCM:
    info = b"tokenlane file " + path.stem.encode()
    return AESGCM(HKDF(algorithm=SHA256(), length=32, salt=salt, info=info).derive(key.secret))


def _place(place: int, mark: int) -> bytes:
    return struct.pack(">QI", place, mark)


def _write(file: FileIO, data: bytes) -> None:
    """Write all of it: a raw file may take less at once."""
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) :]
