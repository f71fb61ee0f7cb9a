"""The files in the operator's directory: their contents and what is known about each, all of it sealed.

    files/ID.data     the content, as sealed records
    files/ID.about    the file's `About`, one sealed record; written last, so a file without it does not exist yet

Ids begin with the time, so their order is the order of creation.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from tokenlane.config.host.pool_key_files import KeyRing, PoolKey
from tokenlane.routing.store.keychain import Keychain

from .sealed_log import SealedLog, Unreadable, read_records

FILE_LIMIT_BYTES = 200 * 1024 * 1024
"""The most that one file may hold, as in OpenAI's API."""
SHELF_LIMIT_BYTES = 10 * 1024 * 1024 * 1024
"""The most that all files together may take."""
KEPT_S = 24 * 3600
"""How long after the end of their batch files are kept."""
UPLOADS_KEPT_S = 2 * KEPT_S
"""How long an upload is kept that names no time."""
_ABANDONED_S = 24 * 3600
"""After how long a content without `About` is an upload that nobody finishes."""

Purpose = Literal["batch", "batch_output", "fine-tune"]

_FILE_ID = re.compile(r"file-[0-9a-f]{32}")
_Document = TypeVar("_Document", bound=BaseModel)


class About(BaseModel):
    """What is known about a file. Times are seconds since the epoch; `agent`: whose file it is."""

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)

    id: str
    agent: str
    filename: str = Field(repr=False)
    purpose: Purpose
    bytes: int
    created_at: int
    expires_at: int

    def as_openai(self) -> dict[str, object]:
        """The file object of OpenAI's API."""
        return {"object": "file", "status": "processed", **self.model_dump(exclude={"agent"})}


def new_id(prefix: str) -> str:
    """A new id: the prefix, then 32 hexadecimal digits whose order is the order of time."""
    return f"{prefix}{time.time_ns() // 1_000_000:012x}{secrets.token_hex(10)}"


class Shelf:
    """The directory. Its methods block; they raise OSError if the directory cannot be used.

    Args:
        directory: it is created, with mode 0700, if it does not exist.
        keychain: has the pool's key, which it must have.
    """

    def __init__(self, directory: Path, keychain: Keychain) -> None:
        self.directory = directory
        self._keychain = keychain
        self._files = directory / "files"
        self._files.mkdir(mode=0o700, parents=True, exist_ok=True)

    @property
    def key(self) -> PoolKey:
        """The key that seals new files."""
        key = self._keychain.key
        assert key is not None
        return key

    @property
    def keys(self) -> KeyRing:
        """The keys that open files."""
        return self._keychain.ring

    @property
    def size(self) -> int:
        """How many bytes all files take."""
        return sum(_size(path) for path in self._files.iterdir())

    def data_path(self, file_id: str) -> Path:
        """Where the content of a file lies."""
        return self._files / f"{file_id}.data"

    def write_content(self, file_id: str) -> SealedLog:
        """Create the content of a new file. The file exists once `put` has been called."""
        return SealedLog.create(self.data_path(file_id), self.key)

    def put(self, about: About) -> None:
        """Store what is known about a file."""
        self.write_document(self._about_path(about.id), about)

    def get(self, file_id: str, agent: str) -> About | None:
        """What is known about a file of the agent's; None if there is none with this id, or it has expired."""
        if _FILE_ID.fullmatch(file_id) is None:
            return None
        about = self.read_document(self._about_path(file_id), About)
        return about if about and about.agent == agent and about.expires_at > time.time() else None

    def all_of(self, agent: str) -> list[About]:
        """The agent's files, the oldest first."""
        ids = sorted(path.stem for path in self._files.glob("*.about"))
        return [about for file_id in ids if (about := self.get(file_id, agent))]

    def content(self, file_id: str) -> Iterator[bytes]:
        """The content of a file, in pieces of at least 64 KiB.

        Raises:
            Unreadable: it cannot be opened.
            FileNotFoundError: it has been deleted.
        """
        piece = bytearray()
        for record in read_records(self.data_path(file_id), self.keys):
            piece += record.data
            if len(piece) >= 65536:
                yield bytes(piece)
                piece.clear()
        yield bytes(piece)

    def delete(self, file_id: str) -> None:
        """Delete a file. Whoever reads it now may read it to its end."""
        self._about_path(file_id).unlink(missing_ok=True)
        self.data_path(file_id).unlink(missing_ok=True)

    def expire(self, file_id: str, at: int) -> None:
        """Have a file deleted at this time, in seconds since the epoch, if it is not to be deleted earlier."""
        about = self.read_document(self._about_path(file_id), About)
        if about is not None and about.expires_at > at:
            self.put(about.model_copy(update={"expires_at": at}))

    def sweep(self, in_use: Callable[[str], bool]) -> None:
        """Delete the files whose time has come, and uploads that were given up long ago.

        Args:
            in_use: whether a batch writes the file with this id.
        """
        now = time.time()
        for path in self._files.glob("*.about"):
            about = self.read_document(path, About)
            if about is not None and about.expires_at <= now:
                self.delete(about.id)
        for path in self._files.iterdir():
            is_whole = path.suffix == ".about" or self._about_path(path.stem).exists() or in_use(path.stem)
            if (not is_whole or path.suffix.startswith(".new")) and now - _changed_at(path) > _ABANDONED_S:
                path.unlink(missing_ok=True)

    def write_document(self, path: Path, document: BaseModel) -> None:
        """Write a document, completely or not at all, and seal it."""
        new = path.with_suffix(f".new{secrets.token_hex(4)}")  # of the same stem, to which its seal is bound
        try:
            log = SealedLog.create(new, self.key)
            try:
                log.append(0, document.model_dump_json().encode())
                log.flush()
            finally:
                log.close()
            new.replace(path)
        finally:
            new.unlink(missing_ok=True)

    def read_document(self, path: Path, kind: type[_Document]) -> _Document | None:
        """Read a document; None if there is none, or none that this process can open."""
        try:
            record = next(read_records(path, self.keys), None)
            return None if record is None else kind.model_validate_json(record.data)
        except (OSError, Unreadable, ValueError):
            return None

    def _about_path(self, file_id: str) -> Path:
        return self._files / f"{file_id}.about"


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:  # it was deleted meanwhile
        return 0


def _changed_at(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return time.time()
