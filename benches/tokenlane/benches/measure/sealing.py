"""Measures what a pool key costs for each published message: sealing it in the worker, opening it in the agent."""

from __future__ import annotations

import time
import timeit
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from statistics import median

from pydantic import BaseModel

from tokenlane.config.host.pool_key_files import PoolKey
from tokenlane.routing.contract.answers import TokenDelta
from tokenlane.routing.contract.messages import delta_piece, deltas_writer
from tokenlane.routing.contract.sealing.messages import Opener, Sealer
from tokenlane.routing.contract.wire import new_id

from .figures import Bar, line_of
from .host.machine import describe_machine, describe_versions

LIMIT_US = 5.0
_BATCH = 200
_DELTAS = (1, 16, 256)


class MessageCost(BaseModel):
    """What a message with this many deltas costs, in microseconds of CPU time, and how long it is, in bytes."""

    deltas: int
    plain_bytes: int
    sealed_bytes: int
    seal_us: float
    open_us: float


class SealingCost(BaseModel):
    """The report of a whole measurement.

    `first_seal_us`, `first_open_us`: the cost of an attempt's first message, for which each side derives a key.
    """

    measured_at: str
    machine: str
    versions: str
    messages: list[MessageCost]
    first_seal_us: float
    first_open_us: float
    bars: list[Bar]


def measure(batches: int) -> SealingCost:
    """Measure the messages of an answer, each in this many batches."""
    key, request_id = PoolKey.new(), new_id()

    def seal_first() -> bytes:
        return Sealer(key, request_id, "answer").seal(b"{}")

    def opener() -> Opener:
        return Opener(lambda: (key,), request_id, "answer")

    first = seal_first()
    sealer = Sealer(key, request_id, "answer")
    messages = [_cost(sealer, opener(), deltas, batches) for deltas in _DELTAS]
    return SealingCost(
        measured_at=datetime.now(UTC).isoformat(timespec="minutes"),
        machine=describe_machine(),
        versions=describe_versions(),
        messages=messages,
        first_seal_us=_cpu_us(batches, seal_first),
        first_open_us=_cpu_us(batches, lambda: opener().open(first)),
        bars=[
            Bar(name="CPU to seal a message with one delta, in us", measured=messages[0].seal_us, limit=LIMIT_US),
            Bar(name="CPU to open it, in us", measured=messages[0].open_us, limit=LIMIT_US),
        ],
    )


def _cost(sealer: Sealer, opener: Opener, deltas: int, batches: int) -> MessageCost:
    write = deltas_writer(1, "gpu-host-1-4711-0a1b2c3d", "gpu0", "llama3.3:70b")
    plain = write(100, [delta_piece(TokenDelta(text=" token"))] * deltas)
    sealed = sealer.seal(plain)
    return MessageCost(
        deltas=deltas,
        plain_bytes=len(plain),
        sealed_bytes=len(sealed),
        seal_us=_cpu_us(batches, partial(sealer.seal, plain)),
        open_us=_cpu_us(batches, partial(opener.open, sealed)),
    )


def _cpu_us(batches: int, call: Callable[[], object]) -> float:
    """The CPU time of a call, as the median of the batches."""
    return 1e6 / _BATCH * median(timeit.repeat(call, timer=time.process_time, repeat=batches, number=_BATCH))


def table(report: SealingCost) -> str:
    """Return the report as Markdown, for benches/README.md."""
    lines = [
        f"{report.measured_at}, {report.machine}; {report.versions}.",
        "",
        "| deltas in the message | bytes, plain | bytes, sealed | seal, us | open, us |",
        "|--:|--:|--:|--:|--:|",
        *(
            f"| {cost.deltas} | {cost.plain_bytes} | {cost.sealed_bytes} | {cost.seal_us:.1f} | {cost.open_us:.1f} |"
            for cost in report.messages
        ),
        "",
        f"First message of an attempt: seal {report.first_seal_us:.0f} us, open {report.first_open_us:.0f} us.",
        "",
    ]
    return "\n".join([*lines, *map(line_of, report.bars)])
