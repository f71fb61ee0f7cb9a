"""`tokenlane up` leaves the built-in model only for a model server that answers steadily."""

from __future__ import annotations

import pytest

from tokenlane.config.settings.values import LaneSettings
from tokenlane.routing.watch.finding import Code, Finding
from tokenlane.worker.commands import up
from tokenlane.worker.discovery.model_servers import ModelServer

LANE = LaneSettings("gpu0", "ollama", "http://127.0.0.1:1")
STEADY = ModelServer(LANE, "ollama", ("m",))
GONE = ModelServer(LANE, "ollama", problem=Finding(Code.MODEL_SERVER, "fail", "Nothing listens at this address."))


@pytest.mark.parametrize("dies_after", [0, 1, up._STEADY_CHECKS - 1])
async def test_a_server_that_dies_soon_is_not_chosen(monkeypatch: pytest.MonkeyPatch, dies_after: int) -> None:
    """A server that fails one of the checks after it was found has to be found again."""
    found = 0
    checks = [*[STEADY] * dies_after, GONE, *[STEADY] * up._STEADY_CHECKS]

    async def find(*_: object) -> ModelServer:
        nonlocal found
        found += 1
        return STEADY

    async def probe(_: object) -> ModelServer:
        return checks.pop(0)

    monkeypatch.setattr(up, "find_model_server", find)
    monkeypatch.setattr(up, "probe_target", probe)
    monkeypatch.setattr(up, "configured_model_servers", list)
    monkeypatch.setattr(up, "_LOOK_AGAIN_S", 0.0)
    monkeypatch.setattr(up, "_STEADY_EVERY_S", 0.0)
    toy = LaneSettings("toy", "builtin")
    plan = up._Plan([toy], lambda **_: [LANE], looks=True)
    chosen = await up._wait_for_model_server(plan)
    assert (chosen.server, chosen.toy, found, checks) == (STEADY, plan, 2, [])
