"""`tokenlane demo --kill`: kills a worker in mid-answer, and shows that another worker continues the answer.

Two workers serve the built-in model, each as a lane of its own: a `tokenlane up` with the model's server, and a
`tokenlane worker`, which is killed. `up` requeues the requests of its own worker as soon as that worker dies. Requests
of the killed worker wait until its lease lapses, as they would if a whole host went away.
"""

from __future__ import annotations

import os
import signal
import time
from asyncio.subprocess import Process
from collections.abc import Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from rich.console import Console
from rich.text import Text

from tokenlane.config.cli.output import console as new_console
from tokenlane.config.cli.output import note
from tokenlane.config.cli.plain_text import one_line, running_text
from tokenlane.config.exit_codes import FAILED, OK
from tokenlane.config.host.pool_key_files import FILE_NAME, KeyRing
from tokenlane.config.host.socket_urls import socket_of
from tokenlane.producer.client import Client
from tokenlane.routing.contract.answers import Answer, TokenDelta
from tokenlane.routing.contract.errors import LlmError
from tokenlane.routing.decide.policy import Candidate, RolePolicy
from tokenlane.routing.store.pool import connect

from .temporary_pool import serving, temporary_pool

_ROLE = "planner"
_QUESTION = "Tell me a story about a fox and a river."
_MAX_TOKENS = 100
_TIME_TO_LIVE_MS = 120_000
_FIRST, _SECOND = "builtin0", "builtin1"
"""The lane of the worker that is killed, and the lane that continues."""
_KILL_AT = 20
"""The position in the answer at which the worker is killed."""
_LEASE_MS = 2000
_COLORS = {_FIRST: "cyan", _SECOND: "green"}


@dataclass(frozen=True)
class Arrival:
    """A delta, and when it arrived: a reading of `time.monotonic`, in seconds."""

    delta: TokenDelta
    at_s: float


async def demo_kill() -> int:
    """Run the demo. Returns the exit code: 1 if part of the answer is lost or repeated, or no worker was killed."""
    async with AsyncExitStack() as stack:
        up, pool = await stack.enter_async_context(temporary_pool("--provider", "builtin", "--lane", _SECOND))
        if pool is None:
            return await up.wait() or FAILED
        await _set_policy(pool)
        worker, lane = await stack.enter_async_context(_worker(pool))
        if lane is None:
            return await worker.wait() or FAILED
        note(f"Model: {one_line(pool['model'])}.")
        note(f"Two workers serve it, as the lanes {_FIRST} and {_SECOND}. The lease is {_LEASE_MS / 1000:g} s.\n")
        async with Client(pool["redis"], pool=pool["pool"], key=KeyRing()) as client:
            try:
                arrivals, answer = await _ask(client, worker, new_console())
            except LlmError as error:
                note(f"\ntokenlane: {error}", err=True)
                return FAILED
    for line in summary(arrivals, answer):
        note(line)
    faults = list(faults_in(arrivals, answer))
    for fault in faults:
        note(f"tokenlane: {fault}", err=True)
    return FAILED if faults else OK


async def _set_policy(facts: dict[str, Any]) -> None:
    """Give the pool a short lease, and have the lane whose worker is killed begin the answer."""
    route = RolePolicy(route=(Candidate(lane=_FIRST), Candidate(lane=_SECOND)))
    async with connect(facts["redis"], facts["pool"]) as pool:
        policy = await pool.policies.read()
        await pool.policies.write(policy.model_copy(update={"lease_ms": _LEASE_MS, "roles": {_ROLE: route}}))


def _worker(facts: dict[str, Any]) -> AbstractAsyncContextManager[tuple[Process, dict[str, Any] | None]]:
    """Run a second worker for the model server of `up`."""
    environment = dict(os.environ)  # noqa: TID251 - passed on, not read
    environment.pop("TOKENLANE_POOL_KEY", None)
    if socket := socket_of(facts["redis"]):
        environment["TOKENLANE_REDIS__KEY_FILE"] = str(socket.with_name(FILE_NAME))
    return serving(
        *("worker", "--redis", facts["redis"], "--pool", facts["pool"], "--lane", _FIRST),
        *("--provider", "builtin", "--endpoint", facts["endpoint"]),
        environment=environment,
    )


async def _ask(client: Client, worker: Process, console: Console) -> tuple[list[Arrival], Answer]:
    """Stream one answer, and kill the worker that began it."""
    note(f"{_ROLE} asks: {_QUESTION}")
    arrivals: list[Arrival] = []
    async with client.chat(
        _QUESTION, role=_ROLE, max_tokens=_MAX_TOKENS, temperature=0.0, time_to_live_ms=_TIME_TO_LIVE_MS
    ) as stream:
        async for delta in stream:
            if arrivals and delta.attempt != arrivals[-1].delta.attempt:
                note(f"\n--- Lane {delta.lane} continues the answer.")
            arrivals.append(Arrival(delta, time.monotonic()))
            console.print(Text(running_text(delta.text), _COLORS.get(delta.lane, "")), end="", soft_wrap=True)
            if delta.position == _KILL_AT:
                os.kill(worker.pid, signal.SIGKILL)
                note(f"\n--- Killed the worker of lane {_FIRST} (process {worker.pid}) with SIGKILL.")
        note("\n")
        return arrivals, await stream.answer()


def summary(arrivals: Sequence[Arrival], answer: Answer) -> Iterator[str]:
    """Yield lines that say how the answer went."""
    first, last = arrivals[0].delta, arrivals[-1].delta
    yield f"Attempts: {answer.usage.attempts}. Lane {first.lane} began the answer, lane {last.lane} ended it."
    yield f"Pause: {_pause_s(arrivals):.1f} s; the lease is {_LEASE_MS / 1000:g} s."
    if not list(faults_in(arrivals, answer)):
        yield f"Nothing lost or repeated: the answer's {len(arrivals)} deltas have the positions 0 to {last.position}."


def _pause_s(arrivals: Sequence[Arrival]) -> float:
    """Return the seconds between the attempts; 0 if there was one attempt."""
    return sum(
        later.at_s - earlier.at_s
        for earlier, later in pairwise(arrivals)
        if earlier.delta.attempt != later.delta.attempt
    )


def faults_in(arrivals: Sequence[Arrival], answer: Answer) -> Iterator[str]:
    """Yield what is wrong with an answer that another lane should have continued."""
    if [arrival.delta.position for arrival in arrivals] != list(range(len(arrivals))):
        yield "the positions of the deltas have a gap or a repeat"
    if "".join(arrival.delta.text for arrival in arrivals) != answer.text:
        yield "the text of the deltas is not the text of the answer"
    if answer.usage.attempts != 2 or arrivals[0].delta.lane == arrivals[-1].delta.lane:
        yield "no other lane continued the answer, perhaps because it ended before the worker was killed"
