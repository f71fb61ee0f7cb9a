"""The pool key, and the files it is kept in. What it does is in tokenlane.routing.contract.seal.

As text a key is `tlk1-` and 32 bytes in URL-safe base64. A key file holds one key a line, the newest first, and is the
user's alone; those under the line that says so are prepared: they open, and seal once they are rotated to. A `KeyRing`
is what one process has: the first key seals if the pool agrees, all of them open.
"""

from __future__ import annotations

import base64
import binascii
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
"""The key file in the embedded server's directory, and beside its socket."""

_PREFIX = "tlk1-"
_SIZE = 32
_MOST_BYTES = 65536
_HEADER = "# The keys of a tokenlane pool, the newest first. Whoever has one can read the prompts sealed under it.\n"

_PREPARED = "# Prepared: what follows only opens, until `tokenlane key rotate`.\n"


@dataclass(frozen=True, repr=False)
class PoolKey:
    """256 bits for AES-256-GCM.

    Raises:
        ValueError: not 32 bytes.
    """

    secret: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.secret) != _SIZE:
            raise ValueError(f"a pool key has {_SIZE} bytes, not {len(self.secret)}")

    @classmethod
    def new(cls) -> PoolKey:
        """A random key."""
        return cls(secrets.token_bytes(_SIZE))

    @classmethod
    def parse(cls, text: str) -> PoolKey:
        """The key a text stands for.

        Raises:
            ValueError: it stands for none. The error does not quote it.
        """
        body = text.removeprefix(_PREFIX)
        try:
            secret = base64.b64decode(body + "=", altchars=b"-_", validate=True) if body != text else b""
        except (binascii.Error, ValueError):
            secret = b""
        if len(secret) != _SIZE:
            raise ValueError(f"no pool key: one is {_PREFIX} and 43 characters, see `tokenlane key show --reveal`")

        return cls(secret)

    @cached_property
    def id(self) -> str:
        """What the key is called in public: the first 16 hexadecimal digits of a SHA-256 over it."""
        return hashlib.sha256(b"tokenlane pool key\n" + self.secret).hexdigest()[:16]

    def reveal(self) -> str:
        """The key as text. A secret."""
        return _PREFIX + base64.urlsafe_b64encode(self.secret).decode().rstrip("=")

    def __repr__(self) -> str:
        return f"PoolKey({self.id})"


@dataclass(frozen=True)
class KeyRing:
    """The keys of a process, the newest first; none in a pool that is not sealed. `file`: where they were read.
    `prepared`: more of them, which do not seal yet."""

    keys: tuple[PoolKey, ...] = ()
    file: Path | None = None
    prepared: tuple[PoolKey, ...] = ()

    @classmethod
    def parse(cls, *texts: str) -> KeyRing:
        """The keys in texts, each of which may hold several, apart by commas or blanks.

        Raises:
            ValueError: one of them is no key.
        """
        words = [word for text in texts for word in re.split(r"[\s,]+", text) if word]
        return cls(tuple(dict.fromkeys(PoolKey.parse(word) for word in words)))

    @property
    def ids(self) -> tuple[str, ...]:
        """The ids of those that may seal, in order."""
        return tuple(key.id for key in self.keys)

    @property
    def opening(self) -> tuple[str, ...]:
        """The ids of all keys."""
        return tuple(key.id for key in (*self.keys, *self.prepared))

    def find(self, key_id: str) -> PoolKey | None:
        """The key of that id, if it is here."""
        return next((key for key in (*self.keys, *self.prepared) if key.id == key_id), None)

    def reread(self) -> KeyRing:
        """The ring as its file is now; the same ring if it has none, or it cannot be read."""
        if self.file is None:
            return self
        try:
            return read_key_file(self.file)
        except ConfigError:
            return self

    def reveal(self) -> str:
        """The keys as text, as TOKENLANE_POOL_KEY takes them. A secret."""
        return ",".join(key.reveal() for key in (*self.keys, *self.prepared))


def read_key_file(path: Path) -> KeyRing:
    """Read a key file.

    Raises:
        ConfigError: it cannot be read, holds no key, or others than its owner may read it.
    """
    try:
        mode = path.stat().st_mode
        lines = read_file(path, _MOST_BYTES).decode("utf-8-sig").splitlines()  # some editors begin a file with a mark
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
        raise ConfigError(f"The key file {path} holds {error}.") from None
    if not ring.keys:
        raise ConfigError(f"The key file {path} holds no key. `tokenlane key new --file` makes one.")
    return KeyRing(ring.keys, path, prepared.keys)


def write_key_file(
    path: Path, keys: Iterable[PoolKey], prepared: Iterable[PoolKey] = (), *, replace: bool = True
) -> KeyRing:
    """Write a key file, mode 0600: whole or not at all.

    Args:
        prepared: those that only open.

    Raises:
        OSError: it cannot be written; FileExistsError: it is there already and is not to be replaced.
    """
    ring = KeyRing(tuple(keys), path, tuple(prepared))
    parts = [_HEADER, *(f"{key.reveal()}\n" for key in ring.keys)]
    if ring.prepared:
        parts += [_PREPARED, *(f"{key.reveal()}\n" for key in ring.prepared)]
    write_private(path, "".join(parts), replace=replace)
    return ring


def ensure_key_file(path: Path) -> KeyRing:
    """Read a key file; make one with a new key if there is none.

    Raises:
        ConfigError: it is there, and cannot be used.
        OSError: it cannot be made.
    """
    if path.exists():
        return read_key_file(path)
    return write_key_file(path, [PoolKey.new()], replace=False)


def beside(url: str) -> KeyRing:
    """The keys of the embedded server at a Redis URL: those in the file beside its unix socket; none elsewhere.

    Raises:
        ConfigError: there is a key file, and it cannot be used; or it cannot be told whether there is one.
    """
    socket = socket_of(url)
    file = socket.with_name(FILE_NAME) if socket is not None else None
    there = file is not None and is_file(file, "give the keys with TOKENLANE_POOL_KEY")
    return read_key_file(file) if file is not None and there else KeyRing()
