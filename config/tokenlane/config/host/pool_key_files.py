"""Pool keys, which seal the payloads of requests, and the files that hold them.

As text a key is `tlk1-` and 32 bytes in URL-safe base64. A key file, which only its owner may read, holds one key a
line, the newest first. Keys below the line `# Prepared` decrypt only, until `tokenlane key rotate` makes one seal. A
`KeyRing` is the keys of one process: the first key seals if the pool agrees, all keys decrypt.
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
"""The key file's name, in the embedded server's directory and next to its socket."""

_PREFIX = "tlk1-"
_SIZE = 32
_MOST_BYTES = 65536
_HEADER = "# The keys of a tokenlane pool, the newest first. Whoever has one can read the prompts sealed under it.\n"
_PREPARED = "# Prepared: what follows only opens, until `tokenlane key rotate`.\n"


@dataclass(frozen=True, repr=False)
class PoolKey:
    """A key for AES-256-GCM: 32 bytes, else a ValueError."""

    secret: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.secret) != _SIZE:
            raise ValueError(f"a pool key has {_SIZE} bytes, not {len(self.secret)}")

    @classmethod
    def new(cls) -> PoolKey:
        """Make a random key."""
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
            message = f"this is not a pool key: a key is {_PREFIX} and 43 characters, see `tokenlane key show --reveal`"
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
    """The keys of a process, the newest first; empty for a pool that is not sealed. `file`: the file they come from.
    `prepared`: keys that only decrypt yet."""

    keys: tuple[PoolKey, ...] = ()
    file: Path | None = None
    prepared: tuple[PoolKey, ...] = ()

    @classmethod
    def parse(cls, *texts: str) -> KeyRing:
        """Read keys from texts, each with any number of keys between commas or blanks.

        Raises:
            ValueError: a word is not a key. The message does not quote it.
        """
        words = [word for text in texts for word in re.split(r"[\s,]+", text) if word]
        return cls(tuple(dict.fromkeys(PoolKey.parse(word) for word in words)))

    @property
    def ids(self) -> tuple[str, ...]:
        """The ids of the keys that may seal, in order."""
        return tuple(key.id for key in self.keys)

    @property
    def opening(self) -> tuple[str, ...]:
        """The ids of all keys."""
        return tuple(key.id for key in (*self.keys, *self.prepared))

    def find(self, key_id: str) -> PoolKey | None:
        """Return the key with this id, or None."""
        return next((key for key in (*self.keys, *self.prepared) if key.id == key_id), None)

    def reread(self) -> KeyRing:
        """Return the keys now in the file; the same ring if it has no file, or the file cannot be read."""
        if self.file is None:
            return self
        try:
            return read_key_file(self.file)
        except ConfigError:
            return self

    def reveal(self) -> str:
        """Return all keys as text for TOKENLANE_POOL_KEY. A secret."""
        return ",".join(key.reveal() for key in (*self.keys, *self.prepared))


def read_key_file(path: Path) -> KeyRing:
    """Read a key file.

    Raises:
        ConfigError: it cannot be read, holds no key, or other users may read it.
    """
    try:
        mode = path.stat().st_mode
        lines = read_file(path, _MOST_BYTES).decode("utf-8-sig").splitlines()  # some editors begin with a mark
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise ConfigError(f"The key file {path} cannot be read: {reason}.") from error
    if os.name == "posix" and mode & 0o077:
        raise ConfigError(f"Others may read the key file {path}: chmod 600 {path}")
    try:
        start = lines.index(_PREPARED.strip()) if _PREPARED.strip() in lines else len(lines)
        ring, prepared = (
            KeyRing.parse(*(line for line in part if not line.startswith("#")))
            for part in (lines[:start], lines[start:])
        )
    except ValueError as error:
        raise ConfigError(f"The key file {path} is wrong: {error}.") from None
    if not ring.keys:
        raise ConfigError(f"The key file {path} holds no key. `tokenlane key new --file` makes one.")
    return KeyRing(ring.keys, path, prepared.keys)


def write_key_file(
    path: Path, keys: Iterable[PoolKey], prepared: Iterable[PoolKey] = (), *, replace: bool = True
) -> KeyRing:
    """Write a key file with mode 0600, whole or not at all.

    Args:
        prepared: the keys that only decrypt.

    Raises:
        OSError: it cannot be written; FileExistsError: it exists, and `replace` is false.
    """
    ring = KeyRing(tuple(keys), path, tuple(prepared))
    parts = [_HEADER, *(f"{key.reveal()}\n" for key in ring.keys)]
    if ring.prepared:
        parts += [_PREPARED, *(f"{key.reveal()}\n" for key in ring.prepared)]
    write_private(path, "".join(parts), replace=replace)
    return ring


def socket_keys(url: str) -> KeyRing:
    """Return the keys in the file next to the unix socket of a Redis URL; no keys if there is no socket or no file.

    Raises:
        ConfigError: the key file cannot be used, or its directory is closed to this user.
    """
    socket = socket_of(url)
    if socket is None or not is_file(socket.with_name(FILE_NAME), "give the keys with TOKENLANE_POOL_KEY"):
        return KeyRing()
    return read_key_file(socket.with_name(FILE_NAME))
