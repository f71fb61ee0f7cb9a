"""Kinds of work beside chat: embeddings and model commands go the same way, each in slots of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import get_args

import pytest
from tests.integration.clients import quick_client
from tests.integration.lanes import lane_of
from tests.integration.life import audit, raw
from tests.waiting import until
from tests.workshop import FakeProvider

from tokenlane.config.settings.values import LaneSettings
from tokenlane.producer import BadRequest, Client, ContextTooLong, ModelNotFound, ProviderDown, RequestCancelled
from tokenlane.producer.compose import compose_command
from tokenlane.producer.link.link import open_request
from tokenlane.routing.contract.requests import ModelAction
from tokenlane.routing.contract.results import ModelInfo, ModelReport, Progress
from tokenlane.routing.contract.wire import new_id
from tokenlane.routing.decide.policy import Candidate, Policy, RolePolicy
from tokenlane.routing.store.pool import Pool
from tokenlane.routing.watch.parse_snapshot import take_snapshot
from tokenlane.routing.watch.snapshot import Slots
from tokenlane.worker.lane.lane import Lane

CHATS = ModelInfo(name="talker", capabilities=("chat", "tools"))
EMBEDS = ModelInfo(name="mapper", capabilities=("embed",))


class Household(FakeProvider):
    """A server whose models embed, and are pulled, loaded and verified; a pull waits for `go` after its first step.

    `texts`: what was to be embedded; `done`: what was done with models.
    """

    def __init__(self, *models: ModelInfo, hold_after: int | None = None, slots: int = 1) -> None:
        super().__init__(slots=slots, hold_after=hold_after)
        self.there = list(models or (CHATS, EMBEDS))
        self.texts: list[list[str]] = []
        self.done: list[str] = []
        self.pulling = 0
        self.go_on = asyncio.Event()

    async def models(self) -> list[ModelInfo]:
        return list(self.there)

    async def embed(self, inputs: Sequence[str], model: str, dimensions: int | None = None) -> list[list[float]]:
        self.texts.append(list(inputs))
        await self._happen(-1)
        return [[float(len(text)), 1.0, 0.5] for text in inputs]

    async def pull(self, model: str) -> AsyncGenerator[Progress, None]:
        self.pulling += 1
        try:
            yield Progress(step="manifest")
            yield Progress(step="layers", done_bytes=5, total_bytes=10)
            await self.go_on.wait()
            yield Progress(step="layers", done_bytes=10, total_bytes=10)
            self.there.append(ModelInfo(name=model, capabilities=("chat",)))
            self.done.append(f"pulled {model}")
        finally:
            self.pulling -= 1

    async def verify(self, model: str) -> str:
        return "sha256:" + "0" * 64

    async def load(self, model: str) -> None:
        self.done.append(f"loaded {model}")

    async def unload(self, model: str) -> None:
        self.done.append(f"unloaded {model}")


def at_work(
    redis_url: str, provider: FakeProvider, name: str = "lane1", *, max_input_tokens: int | None = None
) -> AbstractAsyncContextManager[Lane]:
    """Serve a lane of this provider."""
    return lane_of(redis_url, LaneSettings(name, "fake", max_input_tokens=max_input_tokens), provider=provider)


async def command(
    client: Client,
    action: ModelAction,
    model: str | None = None,
    lane: str | None = None,
    steps: list[str] | None = None,
) -> ModelReport:
    """Have a command carried out; its report. The steps that are told are added to `steps`."""
    steps = [] if steps is None else steps
    asked = compose_command({"action": action, "model": model, "lane": lane}, agent="ops", client=client.link.client)
    async with open_request(client.link, lambda: asked) as request:
        waiting = asyncio.create_task(request.result())
        while not waiting.done():
            progress = request.progress
            if progress is not None and progress.step not in steps:
                steps.append(progress.step)
            await asyncio.wait({waiting}, timeout=0.005)
        report = await waiting
    assert isinstance(report, ModelReport)
    return report


async def nothing_left(pool: Pool) -> None:
    """Wait until ARQ has cleared up too, then audit the server."""
    async with asyncio.timeout(10):
        while await raw(pool).keys("{main}:arq:*"):
            await asyncio.sleep(0.005)
    await audit(raw(pool))


async def test_texts_become_vectors(redis_url: str, pool: Pool) -> None:
    """Vectors come in the order of the texts, from the model that embeds, and nothing of the request is left."""
    provider = Household()
    async with at_work(redis_url, provider), Client(redis_url) as client:
        found = await client.embed(["a", "bb", "ccc"], role="indexer")
        assert [list(vector) for vector in found.vectors] == [[1, 1, 0.5], [2, 1, 0.5], [3, 1, 0.5]]
        assert (found.dimensions, found.model, found.lane) == (3, "mapper", "lane1")
        many = await asyncio.gather(*(client.embed("x" * n, role="indexer") for n in range(1, 80)))
        assert [one.vectors[0][0] for one in many] == list(range(1, 80))
        await nothing_left(pool)


async def test_an_answer_to_an_embed_that_was_lost_is_asked_for(
    redis_url: str, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where pub/sub loses the reply, the client asks the worker for it and gets the vectors."""
    async with at_work(redis_url, Household()) as lane, Client(redis_url) as client:
        finish = lane.pool.requests.finish

        async def silent(*args: object, **more: object) -> object:
            return await finish(*args[:-1], b"{}", **more)  # type: ignore[arg-type,call-arg]  # as it was called

        monkeypatch.setattr(lane.pool.requests, "finish", silent)
        found = await client.embed("abcd", role="indexer")
        assert found.vectors[0][0] == 4


@pytest.mark.parametrize("kind", ["embed", "command"])
async def test_a_result_that_nobody_keeps_is_computed_again(
    kind: str, redis_url: str, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the worker has forgotten the lost reply as well, the client submits the request again."""
    provider = Household()
    async with at_work(redis_url, provider) as lane, quick_client(redis_url) as client:
        finish = lane.pool.requests.finish

        async def silent(*args: object, **more: object) -> object:
            monkeypatch.setattr(lane.pool.requests, "finish", finish)
            return await finish(*args[:-1], b"{}", **more)  # type: ignore[arg-type,call-arg]  # as it was called

        monkeypatch.setattr(lane.publisher.memory, "_kept_s", 0)
        monkeypatch.setattr(lane.pool.requests, "finish", silent)
        if kind == "embed":
            assert (await client.embed("abcd", role="indexer")).vectors[0][0] == 4
            assert provider.texts == [["abcd"]] * 2
        else:
            assert (await command(client, "load", "talker")).models
            assert provider.done == ["loaded talker"] * 2
        await nothing_left(pool)


async def test_what_cannot_embed_is_said(redis_url: str, pool: Pool) -> None:
    """Without a lane that embeds, with a model that only chats, or too much for one reply: a clear error."""
    await pool.policies.write(Policy(patience_ms=100, lease_ms=3_000))
    async with at_work(redis_url, Household(CHATS)), Client(redis_url) as client:
        with pytest.raises(ProviderDown, match="tokenlane models pull "):
            await client.embed("a", role="indexer")
        with pytest.raises(BadRequest, match="inputs"):
            await client.embed([], role="indexer")
        with pytest.raises(BadRequest, match="inputs"):
            await client.embed(["a"] * 2049, role="indexer")
    async with at_work(redis_url, Household(), "lane2"), Client(redis_url) as client:
        with pytest.raises(ModelNotFound, match="mapper"):
            await client.embed("a", role="indexer", model="talker")
        with pytest.raises(BadRequest, match=r"\b3\b.*\b7\b"):
            await client.embed("a", role="indexer", dimensions=7)


async def test_a_pull_holds_no_chat_slot(redis_url: str, pool: Pool) -> None:
    """With a capacity of 1, chats are answered while a model is pulled, and the pull waits for none of them."""
    provider = Household()
    async with at_work(redis_url, provider), Client(redis_url) as client:
        steps: list[str] = []
        pulling = asyncio.create_task(command(client, "pull", "new", "lane1", steps))
        await until(lambda: "layers" in steps)
        for _ in range(5):
            assert (await client.complete("hi", role="planner")).text == "abc"
        view = (await pool.survey()).lanes[0]
        assert (view.credit_for("chat"), view.credit_for("command"), view.credit_for("embed")) == (1, 0, 32)
        provider.hold_after = 1
        async with client.chat("hi", role="planner") as stream:
            await until(lambda: provider.holding == 1)
            provider.go_on.set()
            report = await pulling
            provider.go.set()
            await stream.answer()
        assert [model.name for model in report.models] == ["new"]
        await nothing_left(pool)


async def test_commands_go_to_the_lane_they_name_one_after_another(redis_url: str, pool: Pool) -> None:
    """A command runs on its lane whatever the routes say, one at a time, and one for a lane nobody knows fails."""
    await pool.policies.write(Policy(roles={"models": RolePolicy(route=(Candidate(lane="nowhere"),))}, patience_ms=100))
    one, two = Household(), Household()
    async with at_work(redis_url, one, "lane1"), at_work(redis_url, two, "lane2"), Client(redis_url) as client:
        report = await command(client, "list", lane="lane2")
        assert [model.name for model in report.models] == ["talker", "mapper"]
        report = await command(client, "verify", "talker", "lane1")
        assert [model.digest for model in report.models] == ["sha256:" + "0" * 64]
        pulling = asyncio.create_task(command(client, "pull", "new", "lane2"))
        await until(lambda: two.pulling == 1)
        await command(client, "load", "talker", "lane1")
        later = asyncio.create_task(command(client, "unload", "talker", "lane2"))
        two.go_on.set()
        await asyncio.gather(pulling, later)
        assert (one.done, two.done) == (["loaded talker"], ["pulled new", "unloaded talker"])
        with pytest.raises(BadRequest, match=r"'lane3'.*lane1, lane2"):
            await command(client, "list", lane="lane3")


async def test_a_command_that_is_cancelled_stops(redis_url: str, pool: Pool) -> None:
    """Leaving a pull, or cancelling it from elsewhere, closes the provider's download and frees the slot."""
    provider = Household()
    async with at_work(redis_url, provider), Client(redis_url) as client, Client(redis_url) as other:
        pulling = asyncio.create_task(command(client, "pull", "new", "lane1"))
        await until(lambda: provider.pulling == 1)
        pulling.cancel()
        await until(lambda: provider.pulling == 0)
        asked = compose_command({"action": "pull", "model": "new"}, agent="ops", client=client.link.client)
        async with open_request(client.link, lambda: asked) as request:
            await until(lambda: provider.pulling == 1)
            assert await other.cancel(request.id)
            with pytest.raises(RequestCancelled):
                await request.result()
        await until(lambda: provider.pulling == 0)
        provider.go_on.set()
        report = await command(client, "pull", "new")
        assert [model.name for model in report.models] == ["new"]
        await nothing_left(pool)


async def test_a_provider_that_cannot_says_so(redis_url: str, pool: Pool) -> None:
    """A command that the lane's provider has no way to carry out fails with what to do instead."""
    async with at_work(redis_url, FakeProvider()), Client(redis_url) as client:
        for action in get_args(ModelAction)[1:]:
            with pytest.raises(BadRequest, match="fake"):
                await command(client, action, "m1")
        report = await command(client, "list")
        assert [model.name for model in report.models] == ["m1"]


async def test_a_prompt_goes_to_a_lane_that_takes_it(redis_url: str, pool: Pool) -> None:
    """A prompt longer than a lane's max_input_tokens goes elsewhere; where none does, limit and estimate are told."""
    await pool.policies.write(Policy(patience_ms=100, lease_ms=3_000))
    long = "word " * 8000
    async with at_work(redis_url, Household(), "small", max_input_tokens=4096), Client(redis_url) as client:
        with pytest.raises(ContextTooLong, match=r"\b10240\b.*\b4096\b.*max_input_tokens"):
            await client.complete(long, role="planner")
        assert (await client.complete("short", role="planner")).lane == "small"
        async with at_work(redis_url, Household(), "large", max_input_tokens=16_384):
            assert (await client.complete(long, role="planner")).lane == "large"


async def test_a_wish_leads_to_a_model_that_can(redis_url: str, pool: Pool) -> None:
    """A request with tools goes to the lane that says its model can call them; where none says so, to any."""
    tools: list[dict[str, object]] = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
    plain = Household(ModelInfo(name="plain", capabilities=("chat",)), slots=9)
    async with at_work(redis_url, plain, "lane1"), Client(redis_url) as client:
        assert (await client.complete("hi", role="planner", tools=tools)).lane == "lane1"  # type: ignore[arg-type]  # JSON
        async with at_work(redis_url, Household(), "lane2"):
            for _ in range(3):
                assert (await client.complete("hi", role="planner", tools=tools)).model == "talker"  # type: ignore[arg-type]  # JSON


async def test_status_tells_the_kinds_apart(redis_url: str, pool: Pool) -> None:
    """A lane's chats are counted for themselves; what else it does stands beside them."""
    provider = Household()
    async with at_work(redis_url, provider), Client(redis_url) as client:
        pulling = asyncio.create_task(command(client, "pull", new_id(), "lane1"))
        await until(lambda: provider.pulling == 1)
        lane = (await take_snapshot(pool)).lanes[0]
        assert lane.slots["chat"] == Slots(1)
        assert lane.slots["command"] == Slots(1, running=1)
        assert lane.slots["embed"] == Slots(32)
        assert lane.workers[0].running == 1
        assert lane.offer.abilities == {"talker": ("chat", "tools"), "mapper": ("embed",)}
        provider.go_on.set()
        await pulling
