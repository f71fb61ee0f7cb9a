"""A lane whose model server cannot work is given no work, and what waits for it waits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest
from tests.fake_server import FakeServer, Reply, fake_server, sse
from tests.integration.clients import quick_client
from tests.integration.farm import eventually
from tests.integration.lanes import lane_of
from tests.integration.life import PREFIX, raw
from tests.integration.servers import free_port
from tests.waiting import until

from tokenlane.benches.simulator import Simulator
from tokenlane.config.settings.values import LaneSettings
from tokenlane.producer import Client
from tokenlane.routing.contract.errors import DeadlineExceeded, ModelNotFound, ProviderDown
from tokenlane.routing.decide.lanes.state import RESTART_MS
from tokenlane.routing.decide.policy import Policy
from tokenlane.routing.store.pool import Pool
from tokenlane.routing.watch.finding import Code
from tokenlane.routing.watch.parse_snapshot import take_snapshot
from tokenlane.routing.watch.pool_health import find_problems
from tokenlane.worker.lane.lane import Lane
from tokenlane.worker.lane.timings import TIMINGS, Timings

LOADING = Reply({"error": {"message": "Loading model", "type": "unavailable_error", "code": 503}}, 503)
ANSWER = sse({"model": "m", "choices": [{"index": 0, "delta": {"content": "hi"}, "finish_reason": "stop"}]})
MODELS: dict[str, Any] = {"object": "list", "data": [{"id": "m", "object": "model"}]}
CHAT, LIST = "POST /v1/chat/completions", "GET /v1/models"


def served(
    url: str, server: FakeServer, lane: str = "gpu0", provider: str = "openai", timings: Timings = TIMINGS
) -> AbstractAsyncContextManager[Lane]:
    """Serve a lane of this model server."""
    return lane_of(url, LaneSettings(lane, provider, server.url, capacity=2), timings)


def after(begun: Callable[[], bool], before: Reply, then: Reply) -> Callable[[Any], Reply]:
    """Answers in one way until something has happened, in another way from then on."""
    return lambda _: then if begun() else before


@pytest.fixture
async def strict(pool: Pool) -> Pool:
    """A pool whose requests have one start each, and whose clients look often."""
    await pool.policies.write(Policy(max_starts=1, lease_ms=1_000))
    return pool


@pytest.mark.parametrize("page", ["loading", "well"])
async def test_a_model_that_loads_costs_what_waits_for_it_no_try(
    strict: Pool, client: Client, redis_url: str, page: str
) -> None:
    """A server that says 503 while it loads is not asked to chat, and where its page of health says otherwise, what it
    refused to begin is no try. The reason is said meanwhile."""
    loaded = asyncio.Event()
    health = after(loaded.is_set, LOADING, Reply(MODELS)) if page == "loading" else Reply(MODELS)
    async with fake_server({LIST: health, CHAT: after(loaded.is_set, LOADING, ANSWER)}) as server:
        async with served(redis_url, server), asyncio.timeout(30):
            async with client.chat("q", role="r") as stream:
                await until(lambda: "is loading" in (stream.waiting or ""))
                others = asyncio.gather(*(client.complete("q", role="r") for _ in range(4)))
                loaded.set()
                assert [delta.text async for delta in stream] == ["hi", ""]
            answers = await others
            assert {answer.usage.attempts for answer in answers} == {1}
            if page == "loading":
                assert len(server.asked) == 5


async def test_a_server_whose_health_lies_is_tried_as_often_as_any(pool: Pool, client: Client, redis_url: str) -> None:
    """Where only chats fail, each failure counts, and the last is told."""
    await pool.policies.write(Policy(max_starts=3))
    async with fake_server({LIST: MODELS, CHAT: Reply({"error": "x"}, 500)}) as server:
        async with served(redis_url, server):
            with pytest.raises(ProviderDown):
                await client.complete("q", role="r")
            assert len(server.asked) == 3
            assert (await pool.survey()).lanes[0].state == "up"


async def test_a_lane_that_failed_a_request_is_not_its_first_choice_again(
    pool: Pool, client: Client, redis_url: str
) -> None:
    """A request that a lane failed, whose health lies, ends well on its second try beside an idle lane that is well."""
    await pool.policies.write(Policy(max_starts=2))
    async with (
        fake_server({LIST: MODELS, CHAT: Reply({"error": "x"}, 500)}) as failing,
        fake_server({LIST: MODELS, CHAT: ANSWER}) as well,
        served(redis_url, failing, "gpu0"),
        served(redis_url, well, "gpu1"),
    ):
        answer = await client.complete("q", role="r")
        assert (answer.lane, answer.usage.attempts) == ("gpu1", 2)
        assert [len(server.asked) for server in (failing, well)] == [1, 1]
        assert (await pool.survey()).lanes[0].state == "up"


async def test_a_request_for_a_model_whose_only_lane_was_shut_down(pool: Pool, redis_url: str) -> None:
    """It waits for a restart of that lane, and names the lane. After that time it is refused, as a request for a model
    that no lane ever served; and if its deadline passes before, the error says that it waited for that lane."""
    other = {LIST: {"object": "list", "data": [{"id": "other", "object": "model"}]}}
    async with (
        fake_server(other) as staying,
        fake_server({LIST: MODELS}) as leaving,
        served(redis_url, staying, "gpu1"),
        quick_client(redis_url) as client,
    ):
        async with served(redis_url, leaving, "gpu0"):
            pass
        await pool.policies.write(Policy(patience_ms=0))
        with pytest.raises(DeadlineExceeded, match="'gpu0'"):
            await client.complete("q", role="r", model="m", time_to_live_ms=500)
        async with client.chat("q", role="r", model="m") as stream:
            await until(lambda: "'gpu0' was shut down" in (stream.waiting or ""))
            left_at = int(await raw(pool).hget(f"{PREFIX}lane:gpu0:state", "seen"))
            await raw(pool).hset(f"{PREFIX}lane:gpu0:state", "seen", left_at - RESTART_MS)
            with pytest.raises(ModelNotFound, match="other"):
                _ = [delta async for delta in stream]


async def test_what_a_dying_server_has_goes_to_another_lane(pool: Pool, client: Client, redis_url: str) -> None:
    """A server that dies with its lane full of work loses none of it: another lane has it at once."""
    await pool.policies.write(Policy(max_starts=2))
    dead = asyncio.Event()
    broken = Reply({"error": "x"}, 502)
    first = {LIST: after(dead.is_set, Reply(MODELS), broken), CHAT: after(dead.is_set, ANSWER, broken)}
    async with fake_server(first) as one, fake_server({LIST: MODELS, CHAT: ANSWER}) as two:
        async with served(redis_url, one), served(redis_url, two, "gpu1"):
            dead.set()
            answers = await asyncio.gather(*(client.complete("q", role="r") for _ in range(16)))
            assert {answer.lane for answer in answers} == {"gpu1"}
            assert sum(answer.usage.attempts > 1 for answer in answers) <= 2, "what had begun"
            lanes = {lane.name: lane for lane in (await pool.survey()).lanes}
            assert (lanes["gpu0"].state, lanes["gpu1"].state) == ("down", "up")
            assert "502" in lanes["gpu0"].why


async def test_what_a_restarted_server_serves_is_offered(pool: Pool, client: Client, redis_url: str) -> None:
    """One that comes back with other models offers those, and not the ones before."""
    away = asyncio.Event()
    server_pages: dict[str, Any] = {LIST: after(away.is_set, Reply(MODELS), Reply({}, 502)), CHAT: ANSWER}
    async with fake_server(server_pages) as server:
        async with served(redis_url, server) as lane:
            away.set()
            lane.readiness.check_soon()

            async def is_down() -> bool:
                return (await pool.survey()).lanes[0].state == "down"

            await eventually(is_down)
            assert (await pool.survey()).lanes[0].models == ("m",)
            server.answers[LIST] = Reply({"object": "list", "data": [{"id": "new", "object": "model"}]})

            async def is_up() -> bool:
                return (await pool.survey()).lanes[0].state == "up"

            await eventually(is_up)
            assert (await pool.survey()).lanes[0].models == ("new",)
            with pytest.raises(ModelNotFound):
                await client.complete("q", role="r", model="m")


async def test_a_lane_that_has_never_been_up_is_waited_for(strict: Pool, client: Client, redis_url: str) -> None:
    """Nobody knows what it will serve, so nothing it may serve is refused, whatever model it names."""
    async with fake_server({LIST: Reply(b"", 503), CHAT: ANSWER}) as server:
        async with served(redis_url, server):
            (lane,) = (await strict.survey()).lanes
            assert (lane.state, lane.models, lane.is_coming) == ("down", (), True)
            asked = asyncio.ensure_future(client.complete("q", role="r"))
            async with client.chat("q", role="r", model="m") as stream:
                await until(lambda: "'gpu0' is down" in (stream.waiting or ""))
                assert not asked.done()
                server.answers[LIST] = Reply(MODELS)
                assert [delta.text async for delta in stream] == ["hi", ""]
            assert (await asked).text == "hi"


@pytest.mark.parametrize("provider", ["vllm", "openai"])
async def test_models_that_come_and_go_while_it_runs(pool: Pool, redis_url: str, provider: str) -> None:
    """An adapter that is loaded is offered without a restart of the worker, and no longer once it is unloaded."""

    def listing(*names: str) -> Reply:
        return Reply({"data": [{"id": name, "object": "model", "owned_by": provider} for name in names]})

    async def offered(*names: str) -> None:
        async def is_so() -> bool:
            return (await pool.survey()).lanes[0].models == names

        await eventually(is_so)

    openapi: dict[str, Any] = {"paths": {"/v1/chat/completions": {}}}
    async with fake_server({LIST: listing("m"), "GET /openapi.json": openapi, "GET /health": Reply()}) as server:
        async with served(redis_url, server, provider=provider, timings=Timings(check_s=0.05, describe_s=0.05)):
            await offered("m")
            server.answers[LIST] = listing("m", "adapter")
            await offered("m", "adapter")
            server.answers[LIST] = listing("m")
            await offered("m")


async def test_a_request_that_kills_its_server_is_given_up(pool: Pool, client: Client, redis_url: str) -> None:
    """Each time it takes the server down it has had one of its starts, or it would do so until its time is over."""
    await pool.policies.write(Policy(max_starts=2))
    dead = asyncio.Event()
    broken = Reply({"error": "x"}, 502)

    def kill(_: object) -> Reply:
        dead.set()
        return broken

    def restart(_: object) -> Reply:
        answer = broken if dead.is_set() else Reply(MODELS)
        dead.clear()
        return answer

    async with fake_server({LIST: restart, CHAT: kill}) as server:
        async with served(redis_url, server):
            with pytest.raises(ProviderDown):
                await client.complete("q", role="r")
            assert len(server.asked) == 2


async def test_a_lane_whose_model_server_never_answered_has_no_limit(pool: Pool, redis_url: str) -> None:
    """The limit depends on the model server: it is 0 until the server answers, and then what the server says."""
    server = LaneSettings("gpu0", "vllm", f"http://127.0.0.1:{free_port()}")

    async def limit() -> int:
        return (await pool.survey()).lanes[0].offer.limit_of("chat")

    async with lane_of(redis_url, server), Client(redis_url) as client:
        assert await limit() == 0
        async with Simulator(api="vllm", port=int((server.endpoint or "").rpartition(":")[2])):
            assert (await client.complete("q", role="r")).text
            assert await limit() == 64


async def test_a_server_that_hangs(
    strict: Pool, client: Client, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While chats run and no token comes, the pool has a problem; it ends with the next token."""
    monkeypatch.setattr("tokenlane.routing.watch.pool_health.SILENT_MS", 500)

    async def is_silent() -> bool:
        return Code.LANE_SILENT in {problem.code for problem in find_problems(await take_snapshot(strict))}

    async def is_heard() -> bool:
        return not await is_silent()

    async with Simulator(api="vllm") as simulator:
        async with lane_of(redis_url, LaneSettings("gpu0", "vllm", simulator.url)):
            async with client.chat("q", role="r", extra={"simulate": {"hold_after": 4}}) as stream:
                await simulator.held()
                await eventually(is_silent)
                simulator.release()
                await stream.answer()
            await eventually(is_heard)
