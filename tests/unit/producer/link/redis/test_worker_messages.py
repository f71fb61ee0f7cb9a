"""The order in which a client sends its handovers."""

from __future__ import annotations

from typing import cast

from tokenlane.config.host.pool_key_files import KeyRing
from tokenlane.producer.link.delta_buffer import MessageToWorker
from tokenlane.producer.link.redis.sealed_requests import SealedRequests
from tokenlane.producer.link.redis.worker_messages import WorkerMessages
from tokenlane.routing.contract.messages import Handover
from tokenlane.routing.store.keychain import Keychain
from tokenlane.routing.store.pool import Pool


def handover(name: str, pieces: int) -> list[MessageToWorker]:
    """The handover of a long answer."""
    text = "x" * 200_000
    return [
        MessageToWorker("w", Handover(id=name, attempt=1, text=text, piece=piece, pieces=pieces))
        for piece in range(pieces)
    ]


def test_a_long_handover_delays_no_other() -> None:
    """Handovers take turns, whichever was asked for first, and the pieces of each stay in order."""
    messages = WorkerMessages(cast("Pool", None), (), SealedRequests(Keychain(KeyRing(), "pool")), lambda: 0.0)
    messages.hand_over(handover("long", 20))
    messages.hand_over(handover("short", 1))
    messages.hand_over(handover("middle", 3))
    sent: list[tuple[str, int]] = []
    while batch := messages._batch():
        assert len(batch) <= 6
        sent += [(each.message.id, cast("Handover", each.message).piece) for each, _ in batch]
    assert sent[:3] == [("long", 0), ("short", 0), ("middle", 0)]
    assert sent.index(("middle", 2)) == 6
    assert [piece for name, piece in sent if name == "long"] == list(range(20))
