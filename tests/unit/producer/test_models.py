"""Model commands to the lanes of a pool, without workers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest
from tests.lanes import lane_view

from tokenlane.producer import BadRequest, ProviderDown, RequestCancelled, models
from tokenlane.producer.link.link import Composed, Link
from tokenlane.producer.link.open_request import OpenRequest
from tokenlane.producer.models import Models
from tokenlane.routing.decide.lanes.offer import LaneView, Offer


class SilentLink:
    """A link to a pool with these lanes, whose workers never answer. It keeps all requests."""

    client, pool = "client1", "this pool"

    def __init__(self, *lanes: LaneView) -> None:
        self.requests: list[OpenRequest] = []
        self._lanes = lanes

    async def lanes(self) -> tuple[LaneView, ...]:
        return self._lanes

    async def open(
        self, compose: Callable[[], Composed], idempotency_key: str | None = None, *, may_restart: bool = False
    ) -> OpenRequest:
        envelope, _ = compose()
        self.requests.append(OpenRequest(envelope.id))
        return self.requests[-1]

    async def close(self, request: OpenRequest, *, everywhere: bool = False) -> None:
        request.give_up(RequestCancelled())


def lane(name: str, state: str = "up", **offered: Any) -> LaneView:
    """A lane in that state, with a model that has the lane's name."""
    offer = Offer(limits={"chat": 1, "command": 1}, **offered)
    return lane_view(name, models=(f"model-{name}",), offer=offer, state=state)


async def test_lanes_that_do_not_answer_are_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A list of all lanes soon has what a silent lane announced, and the silent lane's command is cancelled."""
    monkeypatch.setattr(models, "_LIST_WITHIN_S", 0.01)
    link = SilentLink(lane("a"), lane("b"), lane("c", "gone"))
    async with asyncio.timeout(5):
        listed = await Models(cast("Link", link), "agent1").list_models(None)
    assert [(info.lane, info.name) for info in listed] == [("a", "model-a"), ("b", "model-b")]
    assert [type(request.error) for request in link.requests] == [RequestCancelled, RequestCancelled]


@pytest.mark.parametrize("state", ["gone", "left"])
async def test_a_lane_without_a_worker_lists_nothing(state: str) -> None:
    """To name a lane that no worker serves is an error at once, and no command is sent."""
    link = SilentLink(lane("a", state), lane("b"))
    async with asyncio.timeout(5):
        with pytest.raises(ProviderDown) as down:
            await Models(cast("Link", link), "agent1").list_models("a")
    assert (down.value.lane, down.value.retryable) == ("a", True)
    assert not link.requests


async def test_a_command_that_a_lane_cannot_carry_out() -> None:
    """It is refused before it is sent, with what to do instead, whether the lane is named or the only open one."""
    link = SilentLink(lane("a", unsupported={"load": "start vllm with the model"}))
    for name in ("a", None):
        with pytest.raises(BadRequest) as refused:
            await Models(cast("Link", link), "agent1").run("load", "m", name)
        assert (refused.value.lane, refused.value.provider) == ("a", "vllm")
        assert "start vllm with the model" in refused.value.message
    assert not link.requests
