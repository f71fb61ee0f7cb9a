"""Keeps conversations in a SQLite file of the agent's, which several processes may use."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import aiosqlite

from tokenlane.routing.contract.requests import Message

from .one_at_a_time import CHANGED, ConversationBusy
from .saved import SavedConversation, check_saved

_FORMAT = 1
_BUSY_S = 5.0
_TABLES = f"""
CREATE TABLE IF NOT EXISTS conversations (id TEXT PRIMARY KEY, revision INTEGER NOT NULL, left_out INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS messages (
    conversation TEXT NOT NULL, place INTEGER NOT NULL, message BLOB NOT NULL, PRIMARY KEY (conversation, place)
);
PRAGMA user_version = {_FORMAT};
"""


class ConversationFile:
    """A conversation in a file. Each write raises its revision, and is refused if another process has written since.

    Attributes:
        path: the file.
        revision: the revision that was read or written last; 0 if the file does not have the conversation.
        stored: how many messages that revision has.
    """

    def __init__(self, path: Path, conversation: str) -> None:
        self.path = path
        self.revision = 0
        self.stored = 0
        self._conversation = conversation

    async def read_if_changed(self) -> SavedConversation | None:
        """Return the conversation if the file has another revision than the last one that was read or written.

        Raises:
            OSError: the file cannot be used.
        """
        async with self._opened() as file:
            await file.execute("BEGIN")
            revision, left_out = await self._head(file)
            if revision == self.revision:
                return None
            self._check_kept(revision)
            rows = await file.execute_fetchall(
                "SELECT message FROM messages WHERE conversation = ? ORDER BY place", [self._conversation]
            )
        try:
            messages = [Message.model_validate_json(message) for (message,) in rows]
            saved = SavedConversation(messages=messages, left_out=left_out)
            check_saved(saved)
        except ValueError:  # its text may quote the file
            raise OSError(
                f"conversation {self._conversation!r} in the file {str(self.path)!r} is damaged: restore the file, or "
                "begin another conversation"
            ) from None
        self.revision, self.stored = revision, len(messages)
        return saved

    async def write(self, messages: Sequence[Message], left_out: int, *, anew: bool = False) -> None:
        """Write the messages that the file lacks, or with `anew` all of them in place of those in the file.

        Raises:
            ConversationBusy: another process has changed the conversation since it was read.
            OSError: the file cannot be used.
        """
        stored = 0 if anew else self.stored
        # Rows are views, since aiosqlite's debug log quotes the arguments of each statement.
        rows = [
            (self._conversation, place, memoryview(messages[place].model_dump_json(exclude_unset=True).encode()))
            for place in range(stored, len(messages))
        ]
        async with self._opened() as file:
            await file.execute("BEGIN IMMEDIATE")
            revision, _ = await self._head(file)
            self._check_kept(revision)
            if revision != self.revision:
                raise ConversationBusy(CHANGED)
            if anew:
                await file.execute("DELETE FROM messages WHERE conversation = ?", [self._conversation])
            await file.executemany("INSERT INTO messages VALUES (?, ?, ?)", rows)
            await file.execute(
                "INSERT OR REPLACE INTO conversations VALUES (?, ?, ?)", [self._conversation, revision + 1, left_out]
            )
            await file.execute("COMMIT")
        self.revision, self.stored = revision + 1, len(messages)

    def _check_kept(self, revision: int) -> None:
        """Check that the file still has what was read or written: revisions only rise."""
        if revision < self.revision:
            raise OSError(
                f"the file {str(self.path)!r} no longer has conversation {self._conversation!r} as it was: the file "
                "was deleted or replaced. Restore it, or `save` the conversation and `load` it into another one"
            )

    async def _head(self, file: aiosqlite.Connection) -> tuple[int, int]:
        """The revision, and how many messages are left out; zeros if the file does not have the conversation."""
        rows = await file.execute_fetchall(
            "SELECT revision, left_out FROM conversations WHERE id = ?", [self._conversation]
        )
        for revision, left_out in rows:
            return revision, left_out
        return 0, 0

    @asynccontextmanager
    async def _opened(self) -> AsyncIterator[aiosqlite.Connection]:
        """The file, which is created with mode 0600. It is not kept open, since a connection costs a thread.

        A transaction that the block does not commit is undone.
        """
        try:
            # The file is created here to set its mode, which SQLite copies to its journal.
            with suppress(FileExistsError):
                os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
            async with aiosqlite.connect(self.path, isolation_level=None, timeout=_BUSY_S) as file:
                ((version,),) = await file.execute_fetchall("PRAGMA user_version")
                if version > _FORMAT:
                    raise OSError(f"a newer tokenlane wrote {str(self.path)!r}: update tokenlane here")
                if version < _FORMAT:
                    await file.executescript(_TABLES)
                yield file
        except sqlite3.Error as error:
            raise OSError(f"the file of conversations {str(self.path)!r} cannot be used: {error}") from error
