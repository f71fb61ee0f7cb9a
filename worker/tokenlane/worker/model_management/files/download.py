"""Downloads one file over HTTP: resumes a partial download, verifies it, and moves it to its target. Blocking."""

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

ReportBytes = Callable[[int], None]
"""Called with the number of bytes that were added to the partial file."""


@dataclass(frozen=True)
class RemoteFile:
    """A file to download.

    Args:
        url: the source.
        target: the path for the complete file.
        size_bytes, sha256: the expected size and hash, if known.
        git_sha1: git's hash of a small file, if known.
        headers: headers of the request, which may hold a token.
    """

    url: str
    target: Path
    size_bytes: int | None = None
    sha256: str | None = None
    git_sha1: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)


def download_file(client: httpx.Client, wanted: RemoteFile, report_bytes: ReportBytes) -> None:
    """Download the file, unless its target already has the expected content.

    Raises:
        DigestMismatch: the download has an unexpected size or hash; it has been removed.
        ModelNotFound, Unauthorized, ProviderDown: the file cannot be downloaded.
    """
    target = wanted.target
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.part")
    with _open_exclusively(part) as file:
        if target.exists() and matches(target, wanted):
            report_bytes(target.stat().st_size)
            return
        _download(client, wanted, file, report_bytes)
        if not matches(part, wanted):
            part.unlink()
            raise DigestMismatch(
                f"{target.name}: the download does not have the size and hash that its publisher lists, and was "
                "removed: pull again."
            )
        part.replace(target)


@contextmanager
def _open_exclusively(part: Path) -> Iterator[FileIO]:
    """Open the partial file with a lock, so that another process that downloads the same file waits."""
    while True:
        with part.open("ab", buffering=0) as file:
            _lock(file)
            try:
                is_same = os.path.samestat(part.stat(), os.fstat(file.fileno()))
            except FileNotFoundError:
                is_same = False
            if is_same:  # otherwise another process has completed and moved it meanwhile
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


def _download(client: httpx.Client, wanted: RemoteFile, file: FileIO, report_bytes: ReportBytes) -> None:
    have = file.seek(0, 2)
    if wanted.size_bytes is not None and have >= wanted.size_bytes:
        if have == wanted.size_bytes:
            report_bytes(have)
            return
        file.truncate(0)
        have = 0
    headers = {**wanted.headers, **({"Range": f"bytes={have}-"} if have else {})}
    try:
        with client.stream("GET", wanted.url, headers=headers) as response:
            if response.status_code == 416 and have:  # the file is complete
                report_bytes(have)
                return
            if response.status_code not in (200, 206):
                raise _refused(response.status_code, wanted)
            if response.status_code == 200 and have:  # the server does not resume
                file.truncate(0)
                have = 0
            report_bytes(have)
            for chunk in response.iter_raw():
                file.write(chunk)
                report_bytes(len(chunk))
    except httpx.HTTPError as error:
        raise ProviderDown(
            f"{wanted.target.name}: the download broke off: pull again to resume.",
            detail=str(error)[:2048],
        ) from None


def _refused(status: int, wanted: RemoteFile) -> LlmError:
    name = wanted.target.name
    if status in (401, 403):
        return Unauthorized(f"{name}: the download was refused (HTTP {status}): set HF_TOKEN on the worker's host.")
    if status == 404:
        return ModelNotFound(f"{name}: the file does not exist (HTTP 404): check the model's name.")
    return ProviderDown(f"{name}: the download was refused (HTTP {status}).", retryable=status >= 500 or status == 429)


def matches(path: Path, wanted: RemoteFile) -> bool:
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
