"""Measures what readers lose when the peer that moves their answers is killed in the middle of them.

The simulated model server numbers its words, so each lost or repeated token is noticed. The killed processes are
started again immediately, as a supervisor does.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence

from tokenlane.benches.measure.child_process import ChildProcess, meanwhile
from tokenlane.benches.simulator import Simulator
from tokenlane.config.exit_codes import UserError

from .between import Intermediary
from .programs.rounds import Watched
from .report import Loss

ANSWERS = 8
TOKENS = 200
SPACING_MS = 20
_KILL_AT_TOKEN = 50
_LIMIT = 2 * TOKENS  # the answers end by themselves, before the limit
_POLL_S = 0.02
_BEGIN_S = 30.0


async def lose(server: Simulator, asker: ChildProcess, running: Intermediary, patience_s: float) -> Loss:
    """Kill the peer in the middle of `ANSWERS` answers, and return what became of them."""
    before = len(server.log)
    arguments = {"streams": ANSWERS, "tokens": _LIMIT, "patience_s": patience_s}
    async with meanwhile(asker.ask(list[Watched], "watch", **arguments)) as watching:
        try:
            async with asyncio.timeout(_BEGIN_S):
                while not _in_the_middle(server, before):  # noqa: ASYNC110 - the server notifies nobody of a token
                    await asyncio.sleep(_POLL_S)
        except TimeoutError:
            raise UserError(
                f"the model server was not in the middle of {ANSWERS} answers within {_BEGIN_S:g} s"
            ) from None
        await running.kill()
        await running.start()
        return of(await watching, patience_s)


def _in_the_middle(server: Simulator, before: int) -> bool:
    answers = list(server.log)[before:]
    return len(answers) >= ANSWERS and all(received.sent >= _KILL_AT_TOKEN for received in answers)


def of(watched: Sequence[Watched], patience_s: float) -> Loss:
    """Return what became of the watched answers."""
    expected = {f"w{number}" for number in range(TOKENS)}
    counts = [Counter(answer.text.split()) for answer in watched]
    lost = [len(expected - set(count)) for count in counts]
    repeated = [count.total() - len(count) for count in counts]
    complete = [
        (answer, twice)
        for answer, missing, twice in zip(watched, lost, repeated, strict=True)
        if not missing and answer.error is None
    ]
    return Loss(
        answers=len(watched),
        whole=sum(not twice for _, twice in complete),
        with_repeats=sum(bool(twice) for _, twice in complete),
        lost=sum(lost) / len(watched),
        repeated=sum(repeated) / len(watched),
        errors=dict(Counter(answer.error.partition(":")[0] for answer in watched if answer.error is not None)),
        silent=sum(answer.silent for answer in watched),
        pause_s=max((answer.pause_s for answer, _ in complete), default=None),
        patience_s=patience_s,
    )
