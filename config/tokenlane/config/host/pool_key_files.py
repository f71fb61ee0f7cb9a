"""Pool keys, which seal (encrypt) requests and their answers, and the files with these keys.

As text, a key is `tlk1-` followed by 32 bytes in URL-safe base64. Only its owner may read a key file. It has one key in
each line, the newest first. The keys below the line `# Prepared` only open requests, until `tokenlane key rotate` lets
one of them seal. A `KeyRing` has the keys of one process: the first seals if the pool agrees, and all of them open.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from tokenlane.config.exit_codes import ConfigError
from tokenlane.config.host.bounded_files import read_file
from tokenlane.config.host.paths import is_file
from tokenlane.config.host.private_files import write_private
from tokenlane.config.host.socket_urls import socket_of

FILE_NAME = "pool.key"
"""The name of the key file in the embedded server's directory and next to its socket."""

_PREFIX = "tlk1-"
_SIZE = 32
_MOST_BYTES = 65536
_HEADER = "# The keys of a tokenlane pool, the newest first. Whoever has one can read what it seals.\n"
_PREPARED = "# Prepared: what follows only opens, until `tokenlane key rotate`.\n"


@dataclass(frozen=True, repr=False)
class PoolKey:
    """A key for AES-256-GCM.

    Raises:
        ValueError: the secret does not have 32 bytes.
    """

    secret: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.secret) != _SIZE:
            raise ValueError(f"a pool key must have {_SIZE} bytes, not {len(self.secret)}")

    @classmethod
    def new(cls) -> PoolKey:
        """Return a new random key."""
        return cls(secrets.token_bytes(_SIZE))

    @classmethod
    def parse(cls, text: str) -> PoolKey:
        """Read a key from text.

        Raises:
            ValueError: the text is not a key. The message does not quote it.
        """
        try:
            if not text.startswith(_PREFIX):
                raise ValueError
            return cls(base64.b64decode(text.removeprefix(_PREFIX) + "=", altchars=b"-_", validate=True))
        except ValueError:
            message = f"a pool key is {_PREFIX} followed by 43 characters, as `tokenlane key show --reveal` prints it"
            raise ValueError(message) from None

    @cached_property
    def id(self) -> str:
        """The key's public name: the first 16 hexadecimal digits of its SHA-256."""
        return hashlib.sha256(b"tokenlane pool key\n" + self.secret).hexdigest()[:16]

    def reveal(self) -> str:
        """Return the key as text. A secret."""
        return _PREFIX + base64.urlsafe_b64encode(self.secret).decode().rstrip("=")

    def __repr__(self) -> str:
        return f"PoolKey({self.id})"


@dataclass(frozen=True)
class KeyRing:
    """The keys of a process, the newest first; no keys for a pool that is not sealed.

    Args:
        file: the file with the keys, if they come from a file.
        prepared: keys that only open requests so far.
    """

    keys: tuple[PoolKey, ...] = ()
    file: Path | None = None
    prepared: tuple[PoolKey, ...] = ()

    @classmethod
    def parse(cls, *texts: str) -> KeyRing:
        """Read keys from texts in which commas or blanks separate the keys.

        Raises:
            ValueError: a word is not a key. The message does not quote it.
        """
        words = [word for text in texts for word in re.split(r"[\s,]+", text) if word]
        return cls(tuple(dict.fromkeys(PoolKey.parse(word) for word in words)))

    @property
    def ids(self) -> tuple[str, ...]:
        """The ids of the keys that may seal requests, the newest first."""
        return tuple(key.id for key in self.keys)

    @property
    def all_keys(self) -> tuple[PoolKey, ...]:
        """All keys: every key opens requests, and the prepared keys do nothing else."""
        return (*self.keys, *self.prepared)

    @property
    def all_ids(self) -> tuple[str, ...]:
        """The ids of all keys."""
        return tuple(key.id for key in self.all_keys)

    def find(self, key_id: str) -> PoolKey | None:
        """Return the key with this id, or None."""
        return next((key for key in self.all_keys if key.id == key_id), None)

    def reread(self) -> KeyRing:
        """Read the file again; return this ring if it has no file, or if the file cannot be read."""
        if self.file is None:
            return self
        try:
            return read_key_file(self.file)
        except ConfigError:
            return self

    def reveal(self) -> str:
        """Return all keys as text for TOKENLANE_POOL_KEY. A secret."""
        return ",".join(key.reveal() for key in self.all_keys)


def read_key_file(path: Path) -> KeyRing:
    """Read a key file.

    Raises:
        ConfigError: the file cannot be read or has no key, or other users may read it.
    """
    try:
        mode = path.stat().st_mode
        lines = read_file(path, _MOST_BYTES).decode("utf-8-sig").splitlines()  # some editors write a byte order mark
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ConfigError(f"The key file {path} cannot be read: {reason}.") from error
    if os.name == "posix" and mode & 0o077:
        raise ConfigError(f"Other users may read the key file {path}: run `chmod 600 {path}`.")
    try:
        start = lines.index(_PREPARED.strip()) if _PREPARED.strip() in lines else len(lines)
        ring, prepared = (
            KeyRing.parse(*(line for line in part if not line.startswith("#")))
            for part in (lines[:start], lines[start:])
        )
    except ValueError as error:
        raise ConfigError(f"The key file {path} is malformed: {error}.") from None
    if not ring.keys:
        raise ConfigError(f"The key file {path} contains no key: create one with `tokenlane key new --file {path}`.")
    return KeyRing(ring.keys, path, prepared.keys)


def write_key_file(
    path: Path, keys: Iterable[PoolKey], prepared: Iterable[PoolKey] = (), *, replace: bool = True
) -> KeyRing:
    """Write a key file with mode 0600, completely or not at all.

    Args:
        prepared: keys that only open requests so far.
        replace: overwrite an existing file.

    Raises:
        FileExistsError: the file exists, and `replace` is false.
        OSError: the file cannot be written.
    """
    ring = KeyRing(tuple(keys), path, tuple(prepared))
    parts = [_HEADER, *(f"{key.reveal()}\n" for key in ring.keys)]
    if ring.prepared:
        parts += [_PREPARED, *(f"{key.reveal()}\n" for key in ring.prepared)]
    write_private(path, "".join(parts), replace=replace)
    return ring


def socket_keys(url: str) -> KeyRing:
    """Return the keys in the file next to the unix socket of a Redis URL; an empty ring without socket or file.

    Raises:
        ConfigError: the key file cannot be used, or this user may not access its directory.
    """
    socket = socket_of(url)
    if socket is None or not is_file(socket.with_name(FILE_NAME), "set TOKENLANE_POOL_KEY"):
        return KeyRing()
    return read_key_file(socket.with_name(FILE_NAME))
