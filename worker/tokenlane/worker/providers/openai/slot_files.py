"""Keeps the KV cache of a model's slots in files while llama.cpp's server has the model unloaded.

The server writes and reads the files, in the directory of its `--slot-save-path`. The files hold the state of prompts,
so the directory must be private and on this host, for the lane's worker to protect and delete them.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, TypeAlias

from tokenlane.routing.contract.errors import LlmError

SlotAction: TypeAlias = Callable[[Literal["save", "restore"], str, int, str], Awaitable[dict[str, Any]]]
"""Asks the server for an action with a model's slot and a file name, and returns its answer."""

_PREFIX = "tokenlane-kv-"


class NotKept(Exception):
    """The KV cache of a model cannot be kept. The message says why, and goes to operators."""


@dataclass(frozen=True)
class KeptKv:
    """What became of a model's KV cache when the model was loaded again.

    `tokens`: how many tokens the server counted when it restored them. `lost_because`: why tokens were lost; empty if
    none were.
    """

    tokens: int = 0
    lost_because: str = ""


class SlotFiles:
    """The files of one lane.

    Args:
        lane: the lane's name.
        endpoint: the server's address. A hash of both is part of the files' names, since lanes of other pools may have
            the same name, and servers may share the directory.
        act: asks the server to save or restore a slot.
    """

    def __init__(self, lane: str, endpoint: str, act: SlotAction) -> None:
        self._prefix = f"{_PREFIX}{sha256(f'{lane} {endpoint}'.encode()).hexdigest()[:12]}-"
        self._act = act
        self._directory: Path | None = None
        self._saved: dict[str, dict[int, int]] = {}
        """For each unloaded model, the tokens in each of its slots."""
        self._why_not: dict[str, str] = {}
        self._turn = asyncio.Lock()
        """Held while files change, so that none is deleted that was just written."""

    async def use(self, directory: str | None) -> None:
        """Use the directory of `--slot-save-path`; None if the server has none. Files that an earlier worker of the
        lane left there are deleted."""
        path = None if directory is None else Path(directory)
        if path == self._directory:
            return
        async with self._turn:
            if path != self._directory:
                self._directory = path
                await self._clear()

    async def clear(self) -> None:
        """Delete all files of the lane."""
        async with self._turn:
            await self._clear()

    async def _clear(self) -> None:
        self._saved.clear()
        if self._directory is not None:
            await asyncio.to_thread(_delete, self._directory, f"{self._prefix}*")

    async def save(self, model: str, slots: list[int]) -> None:
        """Save the model's slots, before the model is unloaded. What cannot be saved is lost.

        Args:
            slots: the numbers of the slots; empty if the server does not list them.
        """
        async with self._turn:
            self._saved[model], self._why_not[model] = {}, ""
            try:
                if not slots:
                    raise NotKept("the server does not list its slots: start it without --no-slots")
                directory = await asyncio.to_thread(_private, self._directory)
                for slot in slots:
                    await self._save_slot(model, slot, directory / self._name(model, slot))
            except NotKept as error:
                self._why_not[model] = str(error)
            except (LlmError, OSError) as error:
                self._why_not[model] = f"the server could not save it ({_kind(error)})"

    async def restore(self, model: str) -> KeptKv | None:
        """Restore the model's slots after the model was loaded, and delete their files. None if nothing was saved."""
        async with self._turn:
            saved, why = self._saved.pop(model, None), self._why_not.pop(model, "")
            if saved is None:
                return None
            tokens = 0
            for slot, expected in saved.items():
                name = self._name(model, slot)
                try:
                    restored = (await self._act("restore", model, slot, name)).get("n_restored")
                except LlmError as error:
                    why = f"the server could not restore it ({_kind(error)})"
                else:
                    if restored == expected:
                        tokens += expected
                    else:
                        why = f"the server restored {restored} of {expected} tokens"
                finally:
                    if self._directory is not None:
                        await asyncio.to_thread(_delete, self._directory, name)
            return KeptKv(tokens, why)

    async def _save_slot(self, model: str, slot: int, file: Path) -> None:
        try:
            await asyncio.to_thread(_create_private, file)
            tokens = (await self._act("save", model, slot, file.name)).get("n_saved")
            if isinstance(tokens, int) and tokens > 0:
                self._saved[model][slot] = tokens
        finally:
            if slot not in self._saved[model]:
                await asyncio.to_thread(_delete, file.parent, file.name)

    def _name(self, model: str, slot: int) -> str:
        return f"{self._prefix}{sha256(model.encode()).hexdigest()[:16]}-{slot}.bin"


def _private(directory: Path | None) -> Path:
    """The directory, if it is one where the server may save prompts.

    Raises:
        NotKept: it is none.
    """
    if directory is None:
        raise NotKept("the server was started without --slot-save-path")
    try:
        status = directory.stat()
    except OSError:
        raise NotKept("the directory of --slot-save-path is not on the worker's host") from None
    if status.st_mode & 0o077:
        raise NotKept("other users may read the directory of --slot-save-path: chmod 700 it")
    return directory


def _delete(directory: Path, pattern: str) -> None:
    """Delete the files with such names, as far as possible."""
    with suppress(OSError):
        for file in directory.glob(pattern):
            with suppress(OSError):
                file.unlink(missing_ok=True)


def _create_private(path: Path) -> None:
    """Create the file that the server will write, so that only this user may read it."""
    path.unlink(missing_ok=True)
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))


def _kind(error: Exception) -> str:
    return error.code if isinstance(error, LlmError) else type(error).__name__
