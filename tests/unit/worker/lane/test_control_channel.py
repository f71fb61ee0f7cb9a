from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenlane.config.host.pool_key_files import PoolKey
from tokenlane.routing.contract.envelope import Envelope
from tokenlane.routing.contract.messages import Cancel, Handover, Replay
from tokenlane.routing.contract.sealing.messages import Sealer, address
from tokenlane.routing.contract.wire import new_id
from tokenlane.routing.store.keys import Keys
from tokenlane.routing.store.pool import Pool
from tokenlane.routing.store.replies.claim import ClaimedAttempt
from tokenlane.worker.lane.control_channel import handle_control_message
from tokenlane.worker.lane.publisher import Publisher
from tokenlane.worker.lane.running_attempts import Run, Runs

KEY = PoolKey.new()


class Workbench:
    """A control channel and one run that its messages can reach."""

    def __init__(self, key: PoolKey | None = None) -> None:
        self.runs = Runs()
        self.publisher = Publisher(cast("Pool", SimpleNamespace(keys=Keys())), "worker1", "lane1")
        self.replays: list[tuple[Any, ...]] = []
        self.publisher.replay = lambda *args: bool(self.replays.append(args))  # type: ignore[func-returns-value, method-assign]  # a spy
        envelope = Envelope(id=new_id(), client="c", agent="a", role="r", key_id=key and key.id)
        started = ClaimedAttempt(
            5, envelope, b"", "m", starts=2, left_ms=60_000, waited_ms=0, cancelled=False, needs=envelope.needs
        )
        self.run = Run(started, 5, self.publisher.open(envelope.id, 5, "m", is_sealed=key is not None))
        if key is not None:
            self.run.use_key(key)

    def receive(self, data: bytes) -> None:
        handle_control_message(data, self.runs, self.publisher)


async def test_each_message_reaches_the_run_it_is_about() -> None:
    """Cancel stops the run, Handover answers it, Replay goes to the publisher."""
    bench = Workbench()
    run = bench.run
    with bench.runs.register(run):
        bench.receive(Replay(id=run.id, attempt=5, after=3).to_wire())
        bench.receive(Handover(id=run.id, attempt=5, position=4).to_wire())
        bench.receive(Handover(id=run.id, attempt=5, position=9).to_wire())
        bench.receive(Cancel(id=run.id, attempt=5, reason="expired").to_wire())
    assert bench.replays == [(run.id, 5, 3)]
    assert run.handover.result().position == 4
    assert run.stop_reason == "expired"


async def test_a_run_that_is_cancelled_before_it_begins_is_stopped_when_it_does() -> None:
    """The cancel message may arrive before the worker has registered the run."""
    bench = Workbench()
    bench.receive(Cancel(id=bench.run.id, attempt=5, reason="cancelled").to_wire())
    for _ in range(200):
        bench.receive(Cancel(id=new_id(), attempt=5).to_wire())
    with bench.runs.register(bench.run):
        assert bench.run.stop_reason == "cancelled"


async def test_a_message_about_another_attempt_changes_nothing() -> None:
    """A message for an older or unknown attempt reaches no run."""
    bench = Workbench()
    with bench.runs.register(bench.run):
        bench.receive(Cancel(id=bench.run.id, attempt=4).to_wire())
        bench.receive(Handover(id=bench.run.id, attempt=6).to_wire())
        bench.receive(Cancel(id=new_id(), attempt=5).to_wire())
    assert bench.run.stop_reason is None
    assert not bench.run.handover.done()


async def test_the_handover_of_a_sealed_request_must_be_sealed() -> None:
    """A plain handover, one under another key, and a changed one are dropped and counted; the sealed one arrives."""
    bench = Workbench(KEY)
    handover = Handover(id=bench.run.id, attempt=5, position=4, text="marked").to_wire()
    sealed = address(bench.run.id, Sealer(KEY, bench.run.id, "handover").seal(handover))
    foreign = address(bench.run.id, Sealer(PoolKey.new(), bench.run.id, "handover").seal(handover))
    with bench.runs.register(bench.run):
        for data in (handover, foreign, sealed[:-1], sealed[:40]):
            bench.receive(data)
        assert not bench.run.handover.done()
        bench.receive(sealed)
    assert bench.run.handover.result().text == "marked"
    assert bench.publisher.report().dropped == 4


async def test_a_late_sealed_handover_is_ignored() -> None:
    """A sealed handover for an attempt that has ended is no fault."""
    bench = Workbench(KEY)
    handover = Handover(id=bench.run.id, attempt=5, position=4).to_wire()
    bench.receive(address(bench.run.id, Sealer(KEY, bench.run.id, "handover").seal(handover)))
    assert bench.publisher.report().dropped == 0


@given(data=st.binary() | st.text().map(str.encode) | st.just(b'{"type":"cancel","secret":"xyzzy"}'))
def test_an_invalid_message_raises_nothing(data: bytes) -> None:
    """Any bytes on the channel are survived."""
    handle_control_message(data, Runs(), Publisher(cast("Pool", None), "worker1", "lane1"))


def test_an_invalid_message_is_not_quoted_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """The log has the size of a malformed message, not its content."""
    handle_control_message(b'{"type":"cancel","id":"xyzzy"}', Runs(), Publisher(cast("Pool", None), "worker1", "lane1"))
    assert "30 bytes" in caplog.text
    assert "xyzzy" not in caplog.text
