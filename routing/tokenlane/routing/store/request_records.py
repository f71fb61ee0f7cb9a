"""Reads what the pool stores about requests, for operators. It never reads an envelope or a payload."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tokenlane.routing.decide.queue_key import Queue
from tokenlane.routing.decide.queue_place import QueuePlace

from .keys import Keys
from .replies.values import Reply, as_int, as_list, as_text, parse_queue
from .scripts import Scripts

_BATCH = 100


@dataclass(frozen=True)
class RequestRecord:
    """A request as the pool stores it. Ages are in milliseconds before the reply, by the server's clock.

    Attributes:
        state: `waiting`, `delayed`, `dispatched`, `running`, or how it ended.
        queue: the queue in which it waits or last waited; None if this version cannot parse the queue's name, or if the
            server knows the request only from its worker.
        attempt: the newest attempt; 0 if there was none.
        starts: how often it was started, without attempts that never reached their model server.
        crashes: how many workers died while they ran it.
        age_ms: time since it was submitted.
        left_ms: time to its deadline; negative if that has passed.
        lane, model, worker: of the newest attempt, or ''.
        started_ms: time since the newest start; None if it was never started.
        ended_ms: time since its end; None if it has not ended.
        code: the code of the error with which it ended; '' if there is none.
        stops: `cancelled` or `expired` if it still runs but its worker must end it; otherwise ''.
        due_ms: for a delayed request, the time until it waits again; otherwise 0.
        place: its place in its queue; None if it does not wait.
    """

    id: str
    state: str
    role: str
    kind: str
    agent: str
    client: str
    queue: Queue | None
    attempt: int
    starts: int
    crashes: int
    age_ms: int
    left_ms: int
    lane: str
    model: str
    worker: str
    started_ms: int | None
    ended_ms: int | None
    code: str
    stops: str
    due_ms: int
    place: QueuePlace | None


class RequestRecords:
    """Reads the records of a pool's requests."""

    def __init__(self, scripts: Scripts, keys: Keys) -> None:
        self._scripts = scripts
        self._keys = keys

    async def live(self) -> tuple[RequestRecord, ...]:
        """Read all requests that have not ended, the oldest first. Requests that end meanwhile may be included."""
        ids = set[str]()
        for key in (self._keys.deadlines, self._keys.leases):
            ids.update(map(as_text, as_list(await self._scripts.ask("ZRANGE", key, 0, -1))))
        records = await self.read(sorted(ids))
        return tuple(sorted(records, key=lambda record: (-record.age_ms, record.id)))

    async def read(self, request_ids: Sequence[str]) -> tuple[RequestRecord, ...]:
        """Read these requests. Requests that the server does not know are left out."""
        records: list[RequestRecord] = []
        for first in range(0, len(request_ids), _BATCH):
            reply = as_list(await self._scripts.run("inspect", *request_ids[first : first + _BATCH]))
            records.extend(_parse_record(as_int(reply[0]), as_list(record)) for record in reply[1:])
        return tuple(records)


def _parse_record(now_ms: int, reply: list[Reply]) -> RequestRecord:
    request_id, flat, place, due_ms = reply
    texts = list(map(as_text, as_list(flat)))
    fields = dict(zip(texts[::2], texts[1::2], strict=True))

    def number(name: str) -> int:
        return int(text) if (text := fields.get(name, "")).isascii() and text.isdecimal() else 0

    def age(name: str) -> int | None:
        return now_ms - number(name) if name in fields else None

    has_run = fields.get("state") not in ("waiting", "delayed")
    return RequestRecord(
        id=as_text(request_id),
        state=fields.get("state", ""),
        role=fields.get("role", ""),
        kind=fields.get("kind", ""),
        agent=fields.get("agent", ""),
        client=fields.get("client", ""),
        queue=parse_queue(fields.get("queue", "").encode()),
        attempt=number("attempt"),
        starts=number("starts"),
        crashes=number("crashes"),
        age_ms=age("created") or 0,
        left_ms=number("deadline") - now_ms,
        lane=fields.get("lane", "") if has_run else "",
        model=fields.get("model", "") if has_run else "",
        worker=fields.get("worker", ""),
        started_ms=age("started"),
        ended_ms=age("ended"),
        code=fields.get("code", ""),
        stops=fields.get("cancel", ""),
        due_ms=as_int(due_ms),
        place=_parse_place(place),
    )


def _parse_place(reply: Reply) -> QueuePlace | None:
    position, waiting, pace_ms = map(as_int, as_list(reply))
    return QueuePlace(position, waiting, pace_ms or None) if position else None
