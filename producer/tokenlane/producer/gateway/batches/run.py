"""Runs a batch from where it stands to its end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

from starlette.types import ASGIApp

from tokenlane.config.host.stop_signals import cancelled_by
from tokenlane.producer.gateway.files.sealed_log import Unreadable
from tokenlane.producer.gateway.files.shelf import KEPT_S
from tokenlane.routing.support.tasks import background

from .ask import Asker
from .batch import Batch, Ended, LineError
from .lines import Line, Numbered, check, numbered, parse
from .results import Results
from .room import Room
from .store import BatchStore

_SAVED_EVERY_S = 1.0


async def run_batch(store: BatchStore, batch: Batch, app: ASGIApp, room: Room, cancelled: asyncio.Event) -> None:
    """Run a batch that this process owns, until it has ended.

    Args:
        app: answers the lines.
        cancelled: is set when a client cancels the batch.

    Raises:
        OSError: the directory cannot be used. The batch can be run again later.

    Cancellation: the batch stays where it stands.
    """
    if batch.status == "validating":
        batch = await _validated(store, batch)
        await asyncio.to_thread(store.put, batch)
        if batch.has_ended:
            return
    lost = await asyncio.to_thread(_lost_input, store, batch)
    results = await asyncio.to_thread(Results, store.shelf, batch)
    try:
        if lost is not None:
            await asyncio.to_thread(_finish_without_input, store, batch, results, lost)
            return
        asker = Asker(app, batch, is_resumed=bool(results.done) or time.time() - (batch.in_progress_at or 0) > 2)
        async with background() as tasks:
            tasks.create_task(_save(store, batch, results))
            end = await _ask_all(store, asker, results, room, cancelled)
        if end != "completed":
            await asyncio.to_thread(_give_up, store, batch, results, end)
        await asyncio.to_thread(_finish, store, batch, results, end)
    finally:
        results.close()


async def _validated(store: BatchStore, batch: Batch) -> Batch:
    """The batch in progress, or failed."""
    if (lost := await asyncio.to_thread(_lost_input, store, batch)) is not None:
        total, errors = 0, [lost]
    else:
        total, errors = await asyncio.to_thread(check, store.shelf.content(batch.input_file_id), batch.endpoint)
    now = int(time.time())
    if errors:
        return batch.model_copy(update={"status": "failed", "ended_at": now, "errors": tuple(errors)})
    return batch.model_copy(update={"status": "in_progress", "in_progress_at": now, "total": total})


def _lost_input(store: BatchStore, batch: Batch) -> LineError | None:
    """Why the input cannot be read; None if it can. If it is deleted later, the next run of the batch finds that."""
    try:
        next(store.shelf.content(batch.input_file_id))
    except FileNotFoundError:
        return LineError(code="file_not_found", message="The input file was deleted: upload it again.")
    except Unreadable as error:
        return LineError(code="file_unreadable", message=str(error))
    return None


async def _ask_all(store: BatchStore, asker: Asker, results: Results, room: Room, cancelled: asyncio.Event) -> Ended:
    """Ask all lines that have no result yet. Returns how the batch ends."""
    lines = _lines(store, asker.batch)
    try:
        async with asyncio.timeout(asker.batch.expires_at - time.time()), cancelled_by(cancelled):
            async with asyncio.TaskGroup() as tasks:
                while (line := await asyncio.to_thread(next, lines, None)) is not None:
                    if line.number in results.done:
                        continue
                    await room.enter()
                    task = tasks.create_task(_ask(asker, line, results))
                    task.add_done_callback(lambda _: room.leave())  # though the task was cancelled before it began
    except TimeoutError:
        return "expired"
    return "cancelled" if cancelled.is_set() and len(results.done) < asker.batch.total else "completed"


async def _ask(asker: Asker, line: Numbered, results: Results) -> None:
    parsed = _parsed(line)
    results.add(line.number, parsed.custom_id, await asker.ask(line.number, parsed))


async def _save(store: BatchStore, batch: Batch, results: Results) -> None:
    """Keep the counts that clients see true, and what is written on the disk."""
    while True:
        await asyncio.sleep(_SAVED_EVERY_S)
        if results.completed + results.failed != batch.completed + batch.failed:
            batch = _counted(batch, results)
            await asyncio.to_thread(results.flush)
            await asyncio.to_thread(store.put, batch)


def _give_up(store: BatchStore, batch: Batch, results: Results, end: Ended) -> None:
    """Write a result for each line that has none."""
    for line in _lines(store, batch):
        if line.number not in results.done:
            results.add_unasked(line.number, _parsed(line).custom_id, end)


def _finish(store: BatchStore, batch: Batch, results: Results, end: Ended) -> None:
    results.flush()
    results.publish(batch.kept_s)
    now = int(time.time())
    store.shelf.expire(batch.input_file_id, now + KEPT_S)
    store.put(_counted(batch, results).model_copy(update={"status": end, "ended_at": now}))


def _finish_without_input(store: BatchStore, batch: Batch, results: Results, lost: LineError) -> None:
    """End a batch with the results that it has: nobody knows its other lines any more."""
    end: Ended = "expired" if batch.expires_at <= time.time() else "failed"
    if store.cancelled_at(batch.id) is not None:
        end = "cancelled"
    _finish(store, batch.model_copy(update={"errors": (lost,)}), results, end)


def _counted(batch: Batch, results: Results) -> Batch:
    return batch.model_copy(update={"completed": results.completed, "failed": results.failed})


def _lines(store: BatchStore, batch: Batch) -> Iterator[Numbered]:
    return numbered(store.shelf.content(batch.input_file_id))


def _parsed(line: Numbered) -> Line:
    assert line.text is not None  # as `check` has found
    return parse(line.text)
