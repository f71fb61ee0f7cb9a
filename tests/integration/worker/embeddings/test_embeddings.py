"""Texts to vectors, from an agent to a model server and back: batches, the cache, the fallback lane."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest
from tests.integration.farm import EVERY_LOG, eventually, farm
from tests.integration.lanes import lane_of
from tests.integration.life import PREFIX, audit, dump, raw
from tests.waiting import until
from tests.workshop import FakeProvider

from tokenlane.benches.simulator import Simulator
from tokenlane.benches.simulator.faults import Fault
from tokenlane.config.settings.values import CacheSettings, LaneSettings
from tokenlane.producer import BadRequest, Client, ContextTooLong, ProviderDown, sync
from tokenlane.routing.contract.results import ModelInfo
from tokenlane.routing.decide.lanes.state import RESTART_MS
from tokenlane.routing.decide.policy import Policy
from tokenlane.routing.store.pool import Pool
from tokenlane.routing.watch.parse_snapshot import take_snapshot
from tokenlane.worker.embeddings import embedder as step
from tokenlane.worker.embeddings.fallback_model import FALLBACK_MODEL, is_fasttext_installed
from tokenlane.worker.lane.lane import Lane
from tokenlane.worker.providers import LlmProvider, default_registry

fallback_only = pytest.mark.skipif(not is_fasttext_installed(), reason="the extra `fasttext` is not installed")

MIB = 1024 * 1024
CHATS = ModelInfo(name="talker", capabilities=("chat",))
EMBEDS = ModelInfo(name="mapper", digest="sha256:1234", capabilities=("embed",))


class Mapper(FakeProvider):
    """A model server that embeds, and may be held. `calls`: the texts of each call. A text "bad" is refused."""

    def __init__(self, *models: ModelInfo) -> None:
        super().__init__()
        self.there = models or (EMBEDS,)
        self.calls: list[list[str]] = []
        self.open = asyncio.Event()
        self.open.set()

    async def models(self) -> list[ModelInfo]:
        return list(self.there)

    async def embed(self, inputs: Sequence[str], model: str, dimensions: int | None = None) -> list[list[float]]:
        self.calls.append(list(inputs))
        await self.open.wait()
        if "bad" in inputs:
            raise ContextTooLong("too long")
        return [vector(text) for text in inputs]


def vector(text: str) -> list[float]:
    return [float(len(text)), float(sum(text.encode()) % 1024), 0.5]


def at_work(
    redis_url: str,
    provider: LlmProvider,
    name: str = "lane1",
    *,
    cache: CacheSettings | None = None,
    fallback: bool = False,
) -> AbstractAsyncContextManager[Lane]:
    """Serve a lane of this provider and, if `fallback`, the fallback lane too."""
    return lane_of(redis_url, LaneSettings(name, "fake"), provider=provider, cache=cache, fallback=fallback)


def held(provider: Mapper, client: Client) -> asyncio.Task[object]:
    """A request that keeps the model server busy until it is opened."""
    provider.open.clear()
    return asyncio.create_task(client.embed("first", role="indexer"))


async def test_requests_that_wait_share_a_call(redis_url: str, pool: Pool) -> None:
    """What ten agents ask while the server works is one call; each gets the vectors of its own texts, in order."""
    provider = Mapper()
    async with at_work(redis_url, provider) as lane, Client(redis_url) as client:
        first = held(provider, client)
        await until(lambda: len(provider.calls) == 1)
        others = [
            asyncio.create_task(client.embed([f"own {number}", "same", "x" * number], role="indexer"))
            for number in range(10)
        ]
        await until(lambda: len(lane.runs) == 11)
        await until(lambda: len(lane.embedder._batches._waiting) == 10)  # type: ignore[union-attr]  # it embeds
        provider.open.set()
        await first
        for number, found in enumerate(await asyncio.gather(*others)):
            assert [list(one) for one in found.vectors] == [
                vector(text) for text in (f"own {number}", "same", "x" * number)
            ]
        assert len(provider.calls) == 2
        assert sorted(provider.calls[1]) == sorted(
            {*(f"own {n}" for n in range(10)), "same", *("x" * n for n in range(10))}
        )
        async with asyncio.timeout(10):
            while await raw(pool).keys("{main}:arq:*"):
                await asyncio.sleep(0.005)
        await audit(raw(pool))


async def test_a_text_that_is_refused_fails_its_request_alone(redis_url: str, pool: Pool) -> None:
    """Of requests in one call, only that with the bad text fails, and is told which it may be."""
    provider = Mapper()
    async with at_work(redis_url, provider) as lane, Client(redis_url) as client:
        first = held(provider, client)
        await until(lambda: len(provider.calls) == 1)
        bad = asyncio.create_task(client.embed(["fine", "bad"], role="indexer"))
        good = [asyncio.create_task(client.embed(f"good {number}", role="indexer")) for number in range(5)]
        await until(lambda: len(lane.runs) == 7)
        provider.open.set()
        await asyncio.gather(first, *good)
        with pytest.raises(ContextTooLong, match=r"\b2\b.*\b4\b"):
            await bad


async def test_what_a_host_has_computed_is_not_computed_again(redis_url: str, pool: Pool, tmp_path: Path) -> None:
    """Two lanes of a host that have the same build share vectors; only what is new goes to the server; the hit rate
    is told."""
    cache = CacheSettings(tmp_path / "vectors.sqlite3", 8 * MIB)
    one, two = Mapper(), Mapper()
    async with Client(redis_url) as client:
        async with at_work(redis_url, one, cache=cache):
            made = await client.embed(["a", "b"], role="indexer")
            again = await client.embed(["b", "a", "b"], role="indexer")
            assert again.vectors == [made.vectors[place] for place in (1, 0, 1)]
            assert one.calls == [["a", "b"]]
        async with at_work(redis_url, two, "lane2", cache=cache) as lane:
            found = await client.embed(["c", "b"], role="indexer")
            assert (found.lane, [list(one) for one in found.vectors]) == ("lane2", [vector("c"), vector("b")])
            assert two.calls == [["c"]]
            lane.heartbeat.beat_soon()

            async def told() -> bool:
                workers = [
                    worker for at in (await take_snapshot(pool)).lanes for worker in at.workers if at.name == "lane2"
                ]
                return [(worker.report.cache.found, worker.report.cache.asked) for worker in workers] == [(1, 2)]

            await eventually(told)


async def test_another_build_of_a_model_has_its_own_vectors(redis_url: str, pool: Pool, tmp_path: Path) -> None:
    """Where the digest behind a name changes, or nobody knows it and the server is another, nothing is taken over;
    and where the model changes unnoticed, vectors of other dimensions are not mixed in."""
    cache = CacheSettings(tmp_path / "vectors.sqlite3", 8 * MIB)
    for number, model in enumerate((EMBEDS, EMBEDS.model_copy(update={"digest": "sha256:5678"}))):
        provider = Mapper(model)
        async with at_work(redis_url, provider, f"lane{number}", cache=cache), Client(redis_url) as client:
            await client.embed("a", role="indexer")
            assert provider.calls == [["a"]]

    class Smaller(Mapper):
        async def embed(self, inputs: Sequence[str], model: str, dimensions: int | None = None) -> list[list[float]]:
            return [one[:2] for one in await super().embed(inputs, model, dimensions)]

    provider = Smaller()
    async with at_work(redis_url, provider, "lane3", cache=cache), Client(redis_url) as client:
        found = await client.embed(["a", "new"], role="indexer")
        assert [list(one) for one in found.vectors] == [vector("a")[:2], vector("new")[:2]]
        assert (await client.embed(["a", "new"], role="indexer")).vectors == found.vectors
        assert provider.calls == [["new"], ["a", "new"]]


async def test_a_cache_that_cannot_be_used_costs_nothing(redis_url: str, tmp_path: Path) -> None:
    """A file that is no cache is worked without."""
    file = tmp_path / "vectors.sqlite3"
    file.write_bytes(b"something else altogether" * 1000)
    async with at_work(redis_url, Mapper(), cache=CacheSettings(file, MIB)), Client(redis_url) as client:
        assert list((await client.embed("abc", role="indexer")).vector) == vector("abc")


async def test_a_reply_has_a_bound(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """More vectors than fit into one message are refused, with how many do."""
    monkeypatch.setattr(step, "MAX_VECTOR_BYTES", 100)
    async with at_work(redis_url, Mapper()), Client(redis_url) as client:
        assert len((await client.embed(["a"] * 8, role="indexer")).vectors) == 8
        with pytest.raises(BadRequest, match=r"\b9\b.*\b3\b.*\b8\b"):
            await client.embed(["a"] * 9, role="indexer")


@fallback_only
async def test_where_no_lane_embeds_the_fallback_does(redis_url: str, pool: Pool) -> None:
    """Every worker serves it; it is told by name; it does not chat, and is not asked for a model it does not have."""
    await pool.policies.write(Policy(patience_ms=100, lease_ms=3_000))
    async with at_work(redis_url, Mapper(CHATS), fallback=True), Client(redis_url) as client:
        found = await client.embed(["open a file", "\N{PILE OF POO}", ""], role="indexer")
        assert (found.is_fallback, found.model, found.lane) == (True, FALLBACK_MODEL, "fallback")
        assert [len(one) for one in found.vectors] == [found.dimensions] * 3
        assert all(math.hypot(*one) == pytest.approx(1, abs=1e-6) for one in found.vectors)
        assert (await client.complete("hi", role="planner")).lane == "lane1"
        with pytest.raises(ProviderDown, match="tokenlane models pull ") as raised:
            await client.embed("a", role="indexer", model="nomic-embed-text")
        assert (raised.value.model, raised.value.retryable) == ("nomic-embed-text", False)


@fallback_only
async def test_who_wants_no_fallback_is_not_given_it(redis_url: str, pool: Pool) -> None:
    """Neither a request that says so, nor any in a pool whose policy does."""
    await pool.policies.write(Policy(patience_ms=100, lease_ms=3_000))
    async with at_work(redis_url, Mapper(CHATS), fallback=True), Client(redis_url) as client:
        with pytest.raises(ProviderDown, match="`fallback`") as raised:
            await client.embed("a", role="indexer", fallback="error")
        assert (raised.value.lane, raised.value.retryable) == ("fallback", False)
        await pool.policies.write(Policy(patience_ms=100, lease_ms=3_000, fallback="error"))
        with pytest.raises(ProviderDown, match=r"tokenlane models pull .*\bfallback\b"):
            await client.embed("a", role="indexer")


@fallback_only
async def test_a_lane_that_is_away_is_waited_for(redis_url: str, pool: Pool) -> None:
    """A worker that embeds and restarts is no reason for other vectors: the request waits for it."""
    async with at_work(redis_url, Mapper(CHATS), fallback=True), Client(redis_url) as client:
        async with at_work(redis_url, Mapper(), "lane2"):
            await client.embed("a", role="indexer")
        waiting = asyncio.create_task(client.embed("b", role="indexer"))
        await eventually(lambda: _waits(pool))
        async with at_work(redis_url, Mapper(), "lane2"):
            assert (await waiting).lane == "lane2"


@fallback_only
async def test_a_lane_that_was_stopped_is_not_waited_for(redis_url: str, pool: Pool) -> None:
    """Once it had time for a restart, the fallback embeds what waits for it."""
    async with at_work(redis_url, Mapper(CHATS), fallback=True), Client(redis_url) as client:
        async with at_work(redis_url, Mapper(), "lane2"):
            pass
        waiting = asyncio.create_task(client.embed("a", role="indexer"))
        await eventually(lambda: _waits(pool))
        state = f"{PREFIX}lane:lane2:state"
        left_at = int(await raw(pool).hget(state, "seen"))
        await raw(pool).hset(state, "seen", left_at - RESTART_MS)
        assert (await waiting).is_fallback


@pytest.mark.parametrize(
    ("api", "model", "fails"),
    [
        ("openai", "embedder", ""),
        ("ollama", "embedder", ""),
        ("vllm", "matryoshka-embedder", ""),
        ("vllm", "embedder", r"\b64\b.*\b8\b"),
        ("lmstudio", "embedder", r"\b64\b.*\b8\b"),
        ("llamacpp", "embedder", r"\b64\b.*\b8\b"),
    ],
)
async def test_as_many_dimensions_as_are_asked_for(
    redis_url: str, tmp_path: Path, api: str, model: str, fails: str
) -> None:
    """A server that can makes vectors of the size that is asked for, whatever it made before; of others it is said."""
    cache = CacheSettings(tmp_path / "vectors.sqlite3", 8 * MIB)
    async with Simulator(api=api, models=[model]) as simulator, Client(redis_url) as client:
        lane = LaneSettings("lane1", api, simulator.url)
        async with at_work(redis_url, default_registry().create(lane), cache=cache):
            assert (await client.embed("a", role="indexer")).dimensions == 64
            assert (await client.embed("a", role="indexer", dimensions=64)).dimensions == 64
            for _ in range(2):
                if fails:
                    with pytest.raises(BadRequest, match=fails):
                        await client.embed("a", role="indexer", dimensions=8)
                else:
                    assert (await client.embed("a", role="indexer", dimensions=8)).dimensions == 8


async def _waits(pool: Pool) -> bool:
    return [queue.kind for queue in (await take_snapshot(pool)).queues] == ["embed"]


@pytest.mark.kills
async def test_a_killed_worker_costs_no_embeddings(redis_url: str, pool: Pool, tmp_path: Path) -> None:
    """Of two worker processes the one that embeds is killed: what it had is embedded by the other."""
    await pool.policies.write(Policy(lease_ms=900))
    hold = Fault(path="/v1/embeddings", ttft_ms=600_000)
    async with (
        Simulator(api="openai", models=["embedder"], faults=[hold]) as simulator,
        farm(tmp_path, redis_url) as processes,
        Client(redis_url) as client,
    ):
        for _ in range(2):
            await processes.worker("lane1", simulator, TOKENLANE_HOME=str(tmp_path), TOKENLANE_EMBEDDINGS__CACHE_MB="1")
        first = asyncio.create_task(client.embed("first", role="indexer"))
        await simulator.wait_for(lambda: any(it.path == "/v1/embeddings" for it in simulator.log))
        workers = [worker for lane in (await take_snapshot(pool)).lanes for worker in lane.workers]
        (victim,) = (worker.name for worker in workers if worker.running)
        others = [asyncio.create_task(client.embed([f"{number}", "same"], role="indexer")) for number in range(20)]
        await eventually(lambda: _begun(pool))
        await next(child for child in processes.children if child.name == victim).kill()
        async with asyncio.timeout(20):
            found = await asyncio.gather(*others)
            assert len((await first).vectors) == 1
        assert {(one.model, one.lane, len(one.vectors)) for one in found} == {("embedder", "lane1", 2)}
        assert len({tuple(one.vectors[1]) for one in found}) == 1
        assert len({tuple(one.vectors[0]) for one in found}) == 20


async def _begun(pool: Pool) -> bool:
    return not (await pool.survey()).heads


async def test_a_text_is_kept_nowhere(redis_url: str, pool: Pool, tmp_path: Path) -> None:
    """What was embedded is in no log at any level, in no file of the worker's, and no more on the server."""
    home = tmp_path / "home"
    async with Simulator(api="ollama", models=["embedder"]) as simulator, farm(tmp_path, redis_url) as processes:
        serving = ("--lane", "lane1", "--provider", "ollama", "--endpoint", simulator.url, "--json")
        worker = await processes.tokenlane(
            *("worker", *serving), shim=EVERY_LOG, TOKENLANE_HOME=str(home), TOKENLANE_EMBEDDINGS__CACHE_MB="1"
        )
        async with Client(redis_url) as client:
            await client.embed(["marked text", "another marked text"], role="indexer")
            await client.embed(["marked text"], role="indexer")
        assert "marked" not in str(await dump(raw(pool)))
        assert (await worker.end()).code == 0
        assert "marked" not in processes.say()
        files = [file for file in home.rglob("*") if file.is_file()]
        assert any(file.name.startswith("vectors-") for file in files)
        assert not any(b"marked" in file.read_bytes() for file in files)


async def test_arqs_command_embeds_too(redis_url: str, pool: Pool, tmp_path: Path) -> None:
    """Under ARQ's own command a lane embeds, and serves the fallback lane."""
    async with (
        Simulator(api="ollama", models=["embedder"]) as simulator,
        farm(tmp_path, redis_url) as processes,
        Client(redis_url) as client,
    ):
        code = "import sys; from arq.cli import cli; sys.argv[1:] = ['tokenlane.worker.settings.WorkerSettings']; cli()"
        worker = await processes.python(
            code,
            TOKENLANE_REDIS_URL=redis_url,
            TOKENLANE_LANE="lane1",
            TOKENLANE_PROVIDER="ollama",
            TOKENLANE_ENDPOINT=simulator.url,
        )
        assert (await client.embed("a", role="indexer")).lane == "lane1"
        if is_fasttext_installed():
            assert (await client.embed("a", role="other", model=FALLBACK_MODEL)).is_fallback
        assert (await worker.end()).code == 0


async def test_the_command_and_the_client_that_is_not_asynchronous(redis_url: str, pool: Pool, tmp_path: Path) -> None:
    """`tokenlane embed` prints vectors, of arguments or lines, and says whose they are; so does the sync client."""
    async with at_work(redis_url, Mapper()), farm(tmp_path, redis_url) as processes:
        plain = await (await processes.tokenlane("embed", "abc", "d", "--role", "indexer")).ended()
        assert [json.loads(line) for line in plain.out.splitlines()] == [vector("abc"), vector("d")]
        assert (plain.code, plain.error.count("\n")) == (0, 1)
        assert all(part in plain.error for part in ("mapper", "3 dimensions", "lane1"))
        lines = await processes.tokenlane("embed", "-", "--json")
        assert lines.process.stdin is not None
        lines.process.stdin.write(b"one\ntwo three\n")
        lines.process.stdin.close()
        document = json.loads((await lines.ended()).out)
        assert document["vectors"] == [vector("one"), vector("two three")]
        assert (document["model"], document["dimensions"], document["is_fallback"]) == ("mapper", 3, False)
        wrong = await (await processes.tokenlane("embed", "a", "--model", "other")).ended()
        assert (wrong.code, wrong.out) == (1, "")
        assert "model_not_found" in wrong.error

        def ask() -> list[list[float]]:
            with sync.Client(redis_url) as client:
                return [list(one) for one in client.embed(["abc", "d"], role="indexer").vectors]

        assert await asyncio.to_thread(ask) == [vector("abc"), vector("d")]
