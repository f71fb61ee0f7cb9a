"""Downloads one file over HTTP: resumes, verifies it, and moves it to its target when complete. Blocking."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path

import httpx

from tokenlane.routing.contract.errors import DigestMismatch, LlmError, ModelNotFound, ProviderDown, Unauthorized

Moved = Callable[[int], None]
"""Called with the number of bytes that were added; negative if bytes were discarded."""


@dataclass(frozen=True)
class Wanted:
    """A file to download, with its size and hashes if known. `git_sha1`: git's hash of a small file."""

    url: str
    target: Path
    size_bytes: int | None = None
    sha256: str | None = None
    git_sha1: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)


def download_file(client: httpx.Client, wanted: Wanted, moved: Moved) -> None:
    """Download the file to its target, unless the target already has the expected content.

    Raises:
        DigestMismatch: the download has another size or hash than expected, and was removed.
        ModelNotFound, Unauthorized, ProviderDown: the file cannot be downloaded.
    """
    target = wanted.target
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.part")
    with _alone(part) as file:
        if target.exists() and matches(target, wanted):
            moved(target.stat().st_size)
            return
        _download(client, wanted, file, moved)
        if not matches(part, wanted):
            part.unlink()
            raise DigestMismatch(
                f"{target.name}: the download is not what its publisher announced, and was removed: pull again"
            )
        part.replace(target)


@contextmanager
def _alone(part: Path) -> Iterator[FileIO]:
    """Open the unfinished file for this process alone; another process that wants it waits."""
    while True:
        with part.open("ab", buffering=0) as file:
            _lock(file)
            try:
                is_same = os.path.samestat(part.stat(), os.fstat(file.fileno()))
            except FileNotFoundError:
                is_same = False
            if is_same:  # else another process has finished it meanwhile
                yield file
                if part.exists() and part.stat().st_size == 0:
                    part.unlink()
                return


def _lock(file: FileIO) -> None:
    try:
        import fcntl
    except ModuleNotFoundError:  # Windows
        return
    fcntl.flock(file, fcntl.LOCK_EX)


def _download(client: httpx.Client, wanted: Wanted, file: FileIO, moved: Moved) -> None:
    have = file.seek(0, 2)
    if wanted.size_bytes is not None and have >= wanted.size_bytes:
        if have == wanted.size_bytes:
            moved(have)
            return
        file.truncate(0)
        have = 0
    headers = {**wanted.headers, **({"Range": f"bytes={have}-"} if have else {})}
    try:
        with client.stream("GET", wanted.url, headers=headers) as response:
            if response.status_code == 416 and have:  # the file is complete
                moved(have)
                return
            if response.status_code not in (200, 206):
                raise _refused(response.status_code, wanted)
            if response.status_code == 200 and have:  # the server does not resume
                file.truncate(0)
                have = 0
            moved(have)
            for chunk in response.iter_raw():
                file.write(chunk)
                moved(len(chunk))
    except httpx.HTTPError as error:
        raise ProviderDown(
            f"{wanted.target.name}: the download broke off: pull again to resume",
            detail=str(error)[:2048],
        ) from None


def _refused(status: int, wanted: Wanted) -> LlmError:
    name = wanted.target.name
    if status in (401, 403):
        return Unauthorized(f"{name}: download refused (HTTP {status}): set HF_TOKEN on the worker's host")
    if status == 404:
        return ModelNotFound(f"{name}: the file does not exist (HTTP 404): check the model's name")
    return ProviderDown(f"{name}: download refused (HTTP {status})", retryable=status >= 500 or status == 429)


def matches(path: Path, wanted: Wanted) -> bool:
    """Whether the file has the expected size and hashes, as far as these are known."""
    if wanted.size_bytes is not None and path.stat().st_size != wanted.size_bytes:
        return False
    if wanted.sha256 is not None:
        return digest_of(path) == wanted.sha256
    if wanted.git_sha1 is not None:
        content = path.read_bytes()
        return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest() == wanted.git_sha1
    return True


def digest_of(path: Path) -> str:
    """The file's SHA-256, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
