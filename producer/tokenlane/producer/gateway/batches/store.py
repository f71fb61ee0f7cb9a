"""The batches in the operator's directory.

batches/ID.about      the `Batch`, one sealed record; only its owner writes it after its creation
batches/ID.cancel     exists if a client cancelled the batch
batches/ID.lock       the lock of the gateway that owns the batch; the death of a process frees its locks
"""

from __future__ import annotations

import re
import time
from pathlib import Path

from tokenlane.config.host.process_lock import take_lock
from tokenlane.producer.gateway.files.shelf import KEPT_S, Shelf

from .batch import Batch

_BATCH_ID = re.compile(r"batch_[0-9a-f]{32}")


class BatchStore:
    """The batches. Its methods block; they raise OSError if the directory cannot be used."""

    def __init__(self, shelf: Shelf) -> None:
        self.shelf = shelf
        self._batches = shelf.directory / "batches"
        self._batches.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._ended: set[str] = set()

    def put(self, batch: Batch) -> None:
        """Store a batch."""
        self.shelf.write_document(self._path(batch.id, "about"), batch)

    def read(self, batch_id: str) -> Batch | None:
        """A batch; None if there is none with this id that this process can open."""
        if _BATCH_ID.fullmatch(batch_id) is None:
            return None
        return self.shelf.read_document(self._path(batch_id, "about"), Batch)

    def get(self, batch_id: str, agent: str) -> Batch | None:
        """A batch of the agent's."""
        batch = self.read(batch_id)
        return batch if batch and batch.agent == agent else None

    def all_of(self, agent: str) -> list[Batch]:
        """The agent's batches, the newest first."""
        return [batch for batch_id in reversed(self._ids()) if (batch := self.get(batch_id, agent))]

    def unfinished(self) -> list[str]:
        """The ids of the batches that have not ended, the oldest first."""
        ids = [batch_id for batch_id in self._ids() if batch_id not in self._ended]
        batches = [batch for batch_id in ids if (batch := self.read(batch_id))]
        self._ended.update(batch.id for batch in batches if batch.has_ended)
        return [batch.id for batch in batches if not batch.has_ended]

    def cancel(self, batch_id: str) -> None:
        """Note for the owner that a client cancelled the batch."""
        self._path(batch_id, "cancel").touch(mode=0o600)

    def cancelled_at(self, batch_id: str) -> int | None:
        """When a client cancelled the batch, in seconds since the epoch; None if none did."""
        try:
            return int(self._path(batch_id, "cancel").stat().st_mtime)
        except FileNotFoundError:
            return None

    def own(self, batch_id: str) -> int | None:
        """Become the owner of a batch; None if another gateway owns it. Closing the file descriptor ends it."""
        return take_lock(self._path(batch_id, "lock"))

    def sweep(self) -> None:
        """Delete what need not be kept: files whose time has come, and batches whose files are gone."""
        writing: set[str] = set()
        for batch_id in self._ids():
            batch = self.read(batch_id)
            if batch is None:
                continue
            if batch.ended_at is None:
                writing |= {batch.output_id, batch.error_id}
            elif batch.ended_at + max(batch.kept_s, KEPT_S) < time.time():
                for suffix in ("about", "cancel", "lock"):
                    self._path(batch_id, suffix).unlink(missing_ok=True)
        self.shelf.sweep(writing.__contains__)

    def _ids(self) -> list[str]:
        return sorted(path.stem for path in self._batches.glob("*.about"))

    def _path(self, batch_id: str, suffix: str) -> Path:
        return self._batches / f"{batch_id}.{suffix}"
