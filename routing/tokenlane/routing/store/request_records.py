"""Reads what the pool stores about requests, for operators, and drops failed requests.

Only `kept_payload` reads an envelope or a payload.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field, TypeAdapter, ValidationError

from tokenlane.routing.contract.envelope import Envelope
from tokenlane.routing.decide.queue_key import Queue
from tokenlane.routing.decide.queue_place import QueuePlace
from tokenlane.routing.decide.wait_cause import WaitingRequest, is_waiting

from .keys import Keys
from .replies.values import Reply, as_bytes, as_int, as_list, as_text, parse_place, parse_queue
from .scripts import Scripts

_BATCH = 100
_texts: TypeAdapter[list[str]] = TypeAdapter(Annotated[list[str], Field(min_length=6)])


@dataclass(frozen=True)
class AttemptRecord:
    """An attempt of a request. Times are in milliseconds before the reply.

    Attributes:
        assigned_ms: time since a router assigned the request to the lane.
        started_ms: time since a worker started the attempt; None if no worker did.
        ended_ms: time since the attempt's end; None if it has not ended.
        ended_by: why it ended: a code without text, or the state in which the request ended; '' if it has not ended.
    """

    attempt: int
    lane: str
    model: str
    assigned_ms: int
    started_ms: int | None
    ended_ms: int | None
    ended_by: str

    @property
    def ran_ms(self) -> int | None:
        """How long the attempt ran, or has run so far; None if no worker started it."""
        return None if self.started_ms is None else self.started_ms - (self.ended_ms or 0)


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
        is_over_budget: whether the pool's retry budget delays it.
        place: its place in its queue; None if it does not wait.
        payload_kept: whether the pool keeps its payload. The pool does that for failed requests only.
        attempts: its attempts, the newest last. Of those that were put back into a queue, the newest 16 are kept.
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
    payload_kept: bool
    attempts: tuple[AttemptRecord, ...]
    is_over_budget: bool = False

    @property
    def waiting(self) -> WaitingRequest | None:
        """What explains why it waits; None if it runs or has ended."""
        if not is_waiting(self.state):
            return None
        ended_by = self.attempts[-1].ended_by if self.attempts else ""
        return WaitingRequest(self.state, self.queue, self.lane, self.due_ms, ended_by, self.is_over_budget, self.place)


class RequestRecords:
    """The records of a pool's requests."""

    def __init__(self, scripts: Scripts, keys: Keys) -> None:
        self._scripts = scripts
        self._keys = keys

    async def live(self, at_most: int | None = None) -> tuple[RequestRecord, ...]:
        """Read all requests that have not ended, the oldest first. Requests that end meanwhile may be included.

        Args:
            at_most: read only so many requests, those whose deadlines come first.
        """
        ids = set[str]()  # requests that run past their deadline have only a lease
        for key in (self._keys.deadlines, self._keys.leases):
            ids.update(map(as_text, as_list(await self._scripts.ask("ZRANGE", key, 0, (at_most or 0) - 1))))
        records = sorted(await self.read(sorted(ids)), key=lambda record: (record.left_ms, record.id))[:at_most]
        return tuple(sorted(records, key=lambda record: (-record.age_ms, record.id)))

    async def read(self, request_ids: Sequence[str]) -> tuple[RequestRecord, ...]:
        """Read these requests. Requests that the server does not know are left out."""
        records: list[RequestRecord] = []
        for first in range(0, len(request_ids), _BATCH):
            reply = as_list(await self._scripts.run("inspect", *request_ids[first : first + _BATCH]))
            records.extend(_parse_record(as_int(reply[0]), as_list(record)) for record in reply[1:])
        return tuple(records)

    async def failed(self) -> tuple[RequestRecord, ...]:
        """Read all failed requests that the pool still knows and that no operator has dropped, the oldest first."""
        ids = set(map(as_text, as_list(await self._scripts.ask("ZRANGE", self._keys.kept, 0, -1))))
        ids.update(_failed_ids(as_list(await self._scripts.ask("XRANGE", self._keys.failed, "-", "+"))))
        records = await self.read(sorted(ids))
        return tuple(sorted(records, key=lambda record: (-(record.ended_ms or 0), record.id)))

    async def newest_failed(self, at_most: int) -> tuple[RequestRecord, ...]:
        """Read the requests that failed last, the newest first."""
        entries = as_list(await self._scripts.ask("XREVRANGE", self._keys.failed, "+", "-", "COUNT", at_most))
        records = {record.id: record for record in await self.read(list(dict.fromkeys(_failed_ids(entries))))}
        return tuple(sorted(records.values(), key=lambda record: (record.ended_ms or 0, record.id)))

    async def kept_payload(self, request_id: str) -> tuple[Envelope, bytes] | None:
        """Read the envelope and the sealed payload of a failed request; None if the pool does not keep them.

        Raises:
            ValidationError: this version cannot read the envelope.
        """
        key = self._keys.kept_payload(request_id)
        envelope, payload = as_list(await self._scripts.ask("HMGET", key, "envelope", "payload"))
        if envelope is None or payload is None:
            return None
        return Envelope.model_validate_json(as_bytes(envelope)), as_bytes(payload)

    async def drop_failed(self, request_ids: Sequence[str]) -> int:
        """List these failed requests no longer, and delete their payloads; return how many of them failed."""
        dropped = 0
        for first in range(0, len(request_ids), _BATCH):
            dropped += as_int(await self._scripts.run("drop_failed", *request_ids[first : first + _BATCH]))
        return dropped


def _failed_ids(entries: list[Reply]) -> Iterator[str]:
    """The ids of requests in entries of the stream of failed requests."""
    for entry in entries:
        _, values = as_list(entry)
        texts = list(map(as_text, as_list(values)))
        yield from (value for name, value in zip(texts[::2], texts[1::2], strict=True) if name == "id")


def _parse_record(now_ms: int, reply: list[Reply]) -> RequestRecord:
    request_id, flat, place, due_ms, kept = reply
    texts = list(map(as_text, as_list(flat)))
    fields = dict(zip(texts[::2], texts[1::2], strict=True))

    def number(name: str) -> int:
        return _integer(fields.get(name, ""))

    def age(name: str) -> int | None:
        return _age(fields.get(name, ""), now_ms)

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
        place=parse_place(place),
        payload_kept=as_int(kept) == 1,
        attempts=(*_ended_attempts(fields, now_ms), *_newest_attempt(fields, now_ms)),
        is_over_budget=fields.get("delayed_by") == "budget",
    )


def _integer(text: str) -> int:
    """The number that a text from any version holds; 0 if it holds none."""
    return int(text) if text.isascii() and text.isdecimal() else 0


def _age(text: str, now_ms: int) -> int | None:
    """The time since a moment; None if there is none."""
    return now_ms - moment if (moment := _integer(text)) else None


def _ended_attempts(fields: Mapping[str, str], now_ms: int) -> Iterator[AttemptRecord]:
    """The attempts that were put back into a queue. A line that this version cannot read is left out."""
    for line in fields.get("history", "").split("\n"):
        with suppress(ValidationError):
            number, lane, model, started, ended, code, *_ = _texts.validate_json(line)
            times = (now_ms - _integer(number), _age(started, now_ms), _age(ended, now_ms))
            yield AttemptRecord(_integer(number), lane, model, *times, code)


def _newest_attempt(fields: Mapping[str, str], now_ms: int) -> Iterator[AttemptRecord]:
    """The newest attempt, unless it was put back into a queue."""
    number, ended = fields.get("attempt", ""), fields.get("ended", "")
    if "lane" not in fields or fields.get("requeued") == number:
        return
    started = fields.get("started", "") if "worker" in fields else ""
    times = (now_ms - _integer(number), _age(started, now_ms), _age(ended, now_ms))
    ended_by = (fields.get("code") or fields.get("state", "")) if ended else ""
    yield AttemptRecord(_integer(number), fields["lane"], fields.get("model", ""), *times, ended_by)
