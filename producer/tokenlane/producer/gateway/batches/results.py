"""The two files that a batch writes, which are its journal too: a line that stands in one of them is done."""

from __future__ import annotations

import json
import time

from pydantic import JsonValue

from tokenlane.producer.gateway.files.sealed_log import HEADER_BYTES, SealedLog, Unreadable
from tokenlane.producer.gateway.files.shelf import About, Shelf

from .batch import Batch, Ended
from .in_process import Reply


class Results:
    """The results of a batch. Its methods block for no longer than it takes to write a line.

    Attributes:
        done: the numbers of the lines that have a result.
        completed, failed: how many lines stand in the output, and in the file of errors.
    """

    def __init__(self, shelf: Shelf, batch: Batch) -> None:
        self._shelf, self._batch = shelf, batch
        self._output, answered = _open(shelf, batch.output_id)
        try:
            self._errors, refused = _open(shelf, batch.error_id)
        except BaseException:
            self._output.close()
            raise
        self.done: set[int] = set()
        self.completed = self.failed = 0
        self._sizes = [0, 0]
        for number, size in answered:
            self._count(number, size, is_answer=True)
        for number, size in refused:
            self._count(number, size, is_answer=False)

    def add(self, number: int, custom_id: str, reply: Reply) -> None:
        """Add the response to a line. Whoever is killed right after this finds it done."""
        response: dict[str, JsonValue] = {
            "status_code": reply.status,
            "request_id": reply.headers.get("x-tokenlane-request", ""),
            "body": reply.body,
        }
        self._append(number, custom_id, response, None, is_answer=reply.status == 200)

    def add_unasked(self, number: int, custom_id: str, end: Ended) -> None:
        """Add a line that has no response, since the batch ended before."""
        what = "its time ran out" if end == "expired" else "it was cancelled"
        error: dict[str, JsonValue] = {
            "code": f"batch_{end}",
            "message": f"The batch has no answer to this line, since {what} before.",
        }
        self._append(number, custom_id, None, error, is_answer=False)

    def flush(self) -> None:
        """Return once all results are on the disk."""
        self._output.flush()
        self._errors.flush()

    def publish(self, kept_s: int) -> None:
        """Make the files visible to the client, and delete the ones without lines."""
        now = int(time.time())
        ids = (self._batch.output_id, self._batch.error_id)
        for file_id, size, name in zip(ids, self._sizes, ("output", "errors"), strict=True):
            if not size:
                self._shelf.delete(file_id)
                continue
            about = About(
                id=file_id,
                agent=self._batch.agent,
                filename=f"{self._batch.id}_{name}.jsonl",
                purpose="batch_output",
                bytes=size,
                created_at=now,
                expires_at=now + kept_s,
            )
            self._shelf.put(about)

    def close(self) -> None:
        self._output.close()
        self._errors.close()

    def _append(self, number: int, custom_id: str, response: JsonValue, error: JsonValue, *, is_answer: bool) -> None:
        if number in self.done:
            return
        result = {
            "id": f"batch_req_{self._batch.id.removeprefix('batch_')}_{number}",
            "custom_id": custom_id,
            "response": response,
            "error": error,
        }
        data = json.dumps(result, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace") + b"\n"
        (self._output if is_answer else self._errors).append(number, data)
        self._count(number, len(data), is_answer=is_answer)

    def _count(self, number: int, size: int, *, is_answer: bool) -> None:
        self.done.add(number)
        self.completed += is_answer
        self.failed += not is_answer
        self._sizes[0 if is_answer else 1] += size


def _open(shelf: Shelf, file_id: str) -> tuple[SealedLog, list[tuple[int, int]]]:
    """Open a file of results, or create it, and return the number and the size of each result."""
    path = shelf.data_path(file_id)
    try:
        return SealedLog.resume(path, shelf.keys)
    except FileNotFoundError:
        pass
    except Unreadable:
        if path.stat().st_size >= HEADER_BYTES:
            raise
        path.unlink()  # whoever created it was killed before its head was written
    return shelf.write_content(file_id), []
