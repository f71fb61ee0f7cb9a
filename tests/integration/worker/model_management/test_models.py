"""Models of lanes: pulled, verified, loaded and unloaded, from Python and from the command line."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import signal
import sys
from contextlib import AsyncExitStack, aclosing
from dataclasses import replace
from pathlib import Path

import pytest
from tests.integration.farm import Child, Farm, eventually, farm
from tests.integration.lanes import lane_of
from tests.integration.life import raw
from tests.integration.shelves import LmStudioShelf, OllamaShelf, digest_of
from tests.loopback import served
from tests.verbs import run_in_thread
from tests.waiting import until

from tokenlane.benches.simulator import Simulator
from tokenlane.benches.simulator.model.models import Model
from tokenlane.config.settings.values import LaneSettings
from tokenlane.producer import (
    BadRequest,
    Client,
    DigestMismatch,
    Interrupted,
    LlmError,
    ModelNotFound,
    Progress,
    ProviderDown,
)
from tokenlane.producer.models import Models
from tokenlane.producer.sync import Client as SyncClient
from tokenlane.routing.decide.policy import Policy
from tokenlane.routing.store.pool import Pool
from tokenlane.routing.watch.finding import Code
from tokenlane.routing.watch.parse_snapshot import take_snapshot
from tokenlane.routing.watch.pool_health import find_problems
from tokenlane.routing.watch.snapshot import Slots
from tokenlane.worker.lane.timings import Timings
from tokenlane.worker.providers import Loads, Pulls, default_registry


def ollama(url: str, **more: object) -> LaneSettings:
    """A lane of that Ollama."""
    return LaneSettings("gpu0", "ollama", url, **more)  # type: ignore[arg-type]  # as the fields are


async def steps_of(client: Client, model: str) -> list[Progress]:
    """All that a pull tells."""
    return [progress async for progress in client.pull(model)]


async def test_ollama_pulls(redis_url: str) -> None:
    """A pull adds up its layers, and the model is served at once; verify, load and unload do what they say."""
    shelf = OllamaShelf(**{"old:latest": "I am old"})
    shelf.registry["new:1b"] = "I am new"
    async with served(shelf.app) as url, lane_of(redis_url, ollama(url)), Client(redis_url) as client:
        with pytest.raises(ModelNotFound):
            await client.complete("hi", role="planner", model="new:1b")
        last = (await steps_of(client, "new:1b"))[-1]
        assert (last.step, last.done_bytes, last.total_bytes) == ("success", 100, 100)
        assert (await client.complete("hi", role="planner", model="new:1b")).text == "I am new"
        assert (await client.verify("new:1b")).digest == f"sha256:{digest_of('I am new')}"
        await client.load("old")
        assert shelf.loaded == {"old:latest"}
        assert {info.name: info.loaded for info in await client.models()} == {"old:latest": True, "new:1b": False}
        await client.unload("old")
        assert shelf.loaded == set()


async def test_an_empty_ollama_gets_its_first_model(redis_url: str, pool: Pool) -> None:
    """A lane may come to the pool with no model at all, and be told to pull one."""
    await pool.policies.write(Policy(patience_ms=100, lease_ms=3_000))
    shelf = OllamaShelf()
    shelf.registry["new:1b"] = "I am new"
    async with served(shelf.app) as url, lane_of(redis_url, ollama(url)), Client(redis_url) as client:
        assert await client.models() == []
        with pytest.raises(LlmError):
            await client.complete("hi", role="planner")
        await steps_of(client, "new:1b")
        assert (await client.complete("hi", role="planner")).text == "I am new"


async def test_a_pull_that_fails_says_why(redis_url: str) -> None:
    """An error in HTTP 200, an end without a success mark, a digest that is wrong: none is a success."""
    shelf = OllamaShelf(**{"old:latest": "I am old"})
    shelf.registry["new:1b"] = "I am new"
    async with served(shelf.app) as url, default_registry().create(ollama(url)) as provider:
        assert isinstance(provider, Pulls)
        with pytest.raises(ModelNotFound) as unknown:
            _ = [step async for step in provider.pull("typo")]
        assert (unknown.value.lane, unknown.value.model) == ("gpu0", "typo")
        for lines, error in (
            ([], Interrupted),
            ([{"error": "digest mismatch, file must be downloaded again"}], DigestMismatch),
            ([{"error": "no space left on device"}], ProviderDown),
        ):
            shelf.last_lines = lines
            with pytest.raises(error) as raised:
                _ = [step async for step in provider.pull("new:1b")]
            assert "no space" not in str(raised.value)
        assert list(shelf.models) == ["old:latest"]


async def test_leaving_a_pull_stops_the_download(redis_url: str) -> None:
    """An iteration that is broken off closes the download; the model is not there, and a second pull brings it."""
    shelf = OllamaShelf(**{"old:latest": "I am old"})
    shelf.registry["new:1b"] = "I am new"
    shelf.go.clear()
    async with served(shelf.app) as url, lane_of(redis_url, ollama(url)), Client(redis_url) as client:
        async with aclosing(client.pull("new:1b")) as steps:
            async for progress in steps:
                if progress.total_bytes:
                    break
        await until(lambda: shelf.pulling == 0)
        assert [info.name for info in await client.models()] == ["old:latest"]
        shelf.go.set()
        await steps_of(client, "new:1b")
        assert [info.name for info in await client.models()] == ["old:latest", "new:1b"]


async def test_a_lane_that_pulls_is_listed_without_waiting(redis_url: str) -> None:
    """While a lane pulls, `models` tells what it announces, and later commands say what they wait for."""
    shelf = OllamaShelf(**{"old:latest": "I am old"})
    shelf.registry["new:1b"] = "I am new"
    shelf.go.clear()
    async with served(shelf.app) as url, lane_of(redis_url, ollama(url)), Client(redis_url) as client:
        pulling = asyncio.create_task(steps_of(client, "new:1b"))
        await until(lambda: shelf.pulling == 1)
        assert [(info.name, info.lane) for info in await client.models()] == [("old:latest", "gpu0")]
        shelf.go.set()
        await pulling


async def test_a_pinned_model_is_the_pinned_one(redis_url: str) -> None:
    """A pull never replaces the pinned content, and what does not match the pin is neither loaded nor served."""
    shelf = OllamaShelf(**{"phi:4b": "as pinned", "free:1b": "any"})
    shelf.registry["phi:4b"] = "changed"
    pins = {"phi:4b": f"sha256:{digest_of('as pinned')}"}
    async with served(shelf.app) as url, lane_of(redis_url, ollama(url, digests=pins)), Client(redis_url) as client:
        await steps_of(client, "phi:4b")
        assert (await client.complete("hi", role="planner", model="phi:4b")).text == "as pinned"
        assert (shelf.pulls, shelf.models) == (0, {"phi:4b": "as pinned", "free:1b": "any"})
        await client.load("phi:4b")
        shelf.models["phi:4b"] = "changed beside us"
        shelf.loaded.clear()
        for refused in (client.load("phi:4b"), client.verify("phi:4b"), steps_of(client, "phi:4b")):
            with pytest.raises(DigestMismatch, match=pins["phi:4b"]) as raised:
                await refused
            assert (raised.value.lane, raised.value.model) == ("gpu0", "phi:4b")
        assert shelf.loaded == set()
        shelf.registry["phi:4b"] = "as pinned"
        await steps_of(client, "phi:4b")
        assert (await client.complete("hi", role="planner", model="phi:4b")).text == "as pinned"


async def test_what_is_not_checked_is_not_served(redis_url: str, pool: Pool) -> None:
    """While a pull replaces content that does not match the pin, and until what came is checked, nobody gets answers
    from that model."""
    await pool.policies.write(Policy(patience_ms=100, lease_ms=3_000))
    shelf = OllamaShelf(**{"phi:4b": "as pinned", "free:1b": "any"})
    shelf.registry["phi:4b"] = "changed again"
    pins = {"phi:4b": f"sha256:{digest_of('as pinned')}"}
    async with served(shelf.app) as url, lane_of(redis_url, ollama(url, digests=pins)), Client(redis_url) as client:

        async def refused() -> None:
            with pytest.raises(ModelNotFound):
                await client.complete("hi", role="planner", model="phi:4b")

        shelf.models["phi:4b"] = "changed beside us"
        shelf.go.clear()
        pulling = asyncio.create_task(steps_of(client, "phi:4b"))
        await until(lambda: shelf.pulling == 1)
        await refused()
        shelf.may_list.clear()
        shelf.go.set()
        await until(lambda: "changed again" in shelf.models.values())
        await refused()
        shelf.may_list.set()
        with pytest.raises(DigestMismatch):
            await pulling
        await refused()
        assert (await client.complete("hi", role="planner", model="free:1b")).text == "any"
    assert {name for name, _ in shelf.served} == {"free:1b"}


async def test_a_wrong_model_that_had_none_before_is_not_served(redis_url: str, pool: Pool) -> None:
    """A pinned model that the lane is to serve, and that comes with other content, answers nobody."""
    await pool.policies.write(Policy(patience_ms=100, lease_ms=3_000))
    shelf = OllamaShelf()
    shelf.registry["phi:4b"] = "changed"
    pins = {"phi:4b": f"sha256:{digest_of('as pinned')}"}
    lane = ollama("", digests=pins, models=("phi:4b",))
    async with served(shelf.app) as url, lane_of(redis_url, replace(lane, endpoint=url)), Client(redis_url) as client:
        shelf.go.clear()
        pulling = asyncio.create_task(steps_of(client, "phi:4b"))
        await until(lambda: shelf.pulling == 1)
        shelf.may_list.clear()
        shelf.go.set()
        await until(lambda: "phi:4b" in shelf.models)
        waiting = asyncio.create_task(client.complete("hi", role="planner", model="phi:4b"))
        await asyncio.wait({waiting}, timeout=0.5)
        shelf.may_list.set()
        with pytest.raises(DigestMismatch):
            await pulling
        with pytest.raises(ModelNotFound):
            await waiting
    assert shelf.served == []


async def test_a_model_that_is_not_as_pinned_is_not_served(redis_url: str, pool: Pool) -> None:
    """A lane that comes with other content than pinned leaves that model out, and serves the others."""
    await pool.policies.write(Policy(patience_ms=100, lease_ms=3_000))
    shelf = OllamaShelf(**{"phi:4b": "changed", "free:1b": "any"})
    pins = {"phi:4b": f"sha256:{digest_of('as pinned')}"}
    async with served(shelf.app) as url, lane_of(redis_url, ollama(url, digests=pins)), Client(redis_url) as client:
        assert (await client.complete("hi", role="planner")).text == "any"
        with pytest.raises(ModelNotFound):
            await client.complete("hi", role="planner", model="phi:4b")
        assert [name for name, _ in shelf.served] == ["free:1b"]
        assert {info.name: info.offered for info in await client.models()} == {"phi:4b": False, "free:1b": True}
        (problem,) = find_problems(await take_snapshot(pool), max_wait_s=60)
        assert (problem.code, problem.severity, problem.subject) == (Code.MODEL_NOT_PINNED, "warn", "gpu0")
        assert all(digest_of(content) in problem.observed for content in ("changed", "as pinned"))


async def test_one_load_at_a_time_that_can_be_cancelled(redis_url: str) -> None:
    """A lane loads one model at a time; leaving a load closes its request, and the next is begun."""
    shelf = OllamaShelf(**{"a:1b": "a", "b:1b": "b"})
    shelf.may_load.clear()
    async with served(shelf.app) as url, lane_of(redis_url, ollama(url)), Client(redis_url) as client:
        first = asyncio.create_task(client.load("a:1b"))
        await until(lambda: shelf.loading == ["a:1b"])
        second = asyncio.create_task(client.load("b:1b"))
        assert (await client.complete("hi", role="planner", model="a:1b")).text == "a"
        assert shelf.loading == ["a:1b"]
        first.cancel()
        await until(lambda: shelf.loading == ["b:1b"])
        shelf.may_load.set()
        await second
        assert shelf.loaded == {"b:1b"}


async def test_lm_studio(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A download is polled to its end, a model is loaded once however often it is asked for, and unloaded whole."""
    monkeypatch.setattr("tokenlane.worker.providers.openai.lmstudio.POLL_S", 0.01)
    shelf = LmStudioShelf("old")
    shelf.catalogue = {"new"}
    shelf.statuses = [
        {"status": "downloading", "downloaded_bytes": 30},
        {"status": "paused", "downloaded_bytes": 60},
        {"status": "completed", "downloaded_bytes": 100},
    ]
    async with served(shelf.app) as url, default_registry().create(LaneSettings("gpu0", "lmstudio", url)) as provider:
        assert isinstance(provider, Pulls)
        assert isinstance(provider, Loads)
        told = [(one.step, one.done_bytes, one.total_bytes) async for one in provider.pull("new")]
        assert told == [("downloading", 0, 100), ("downloading", 30, 100), ("paused", 60, 100), ("success", 100, 100)]
        assert [one.step async for one in provider.pull("new")] == ["success"]
        await provider.load("new")
        await provider.load("new")
        assert shelf.instances == {"new": ["new"]}
        shelf.instances["new"].append("new:2")
        await provider.unload("new")
        await provider.unload("new")
        assert shelf.instances == {"new": []}
        with pytest.raises(ModelNotFound):
            _ = [one async for one in provider.pull("typo")]
        with pytest.raises(ModelNotFound):
            await provider.load("typo")
        shelf.catalogue.add("bad")
        shelf.statuses = [{"status": "failed"}]
        with pytest.raises(ProviderDown, match="'failed'"):
            _ = [one async for one in provider.pull("bad")]
    async with served(shelf.app) as url, Client(redis_url) as client:
        async with lane_of(redis_url, LaneSettings("gpu0", "lmstudio", url)):
            with pytest.raises(BadRequest, match=r"lmstudio.*~/\.lmstudio/models"):
                await client.verify("old")


async def test_which_lane_has_to_be_said(redis_url: str) -> None:
    """Where several lanes are open a command names one; a lane nobody knows is told from those there are."""
    one, two = OllamaShelf(**{"a:1b": "a"}), OllamaShelf(**{"b:1b": "b"})
    async with (
        served(one.app) as url_one,
        served(two.app) as url_two,
        lane_of(redis_url, LaneSettings("gpu0", "ollama", url_one)),
        lane_of(redis_url, LaneSettings("gpu1", "ollama", url_two)),
        Client(redis_url) as client,
    ):
        with pytest.raises(BadRequest, match="gpu0, gpu1"):
            await client.load("a:1b")
        with pytest.raises(BadRequest, match=r"'gpu7'.*gpu0, gpu1"):
            await client.load("a:1b", lane="gpu7")
        assert [(info.name, info.lane) for info in await client.models()] == [("a:1b", "gpu0"), ("b:1b", "gpu1")]
        assert [info.name for info in await client.models(lane="gpu1")] == ["b:1b"]


async def test_a_lane_that_fails_hides_no_other(redis_url: str, pool: Pool, caplog: pytest.LogCaptureFixture) -> None:
    """Of a lane that cannot list, what it announced is told, and a warning says why; asked alone, it is an error."""
    await pool.policies.write(Policy(max_starts=1))
    one, two = OllamaShelf(**{"a:1b": "a"}), OllamaShelf(**{"b:1b": "b"})
    async with AsyncExitStack() as going, AsyncExitStack() as staying:
        gone = await going.enter_async_context(served(one.app))
        await staying.enter_async_context(
            lane_of(redis_url, LaneSettings("gpu0", "ollama", gone), Timings(check_s=0.1))
        )
        there = await staying.enter_async_context(served(two.app))
        await staying.enter_async_context(lane_of(redis_url, LaneSettings("gpu1", "ollama", there)))
        client = await staying.enter_async_context(Client(redis_url))
        await going.aclose()

        async def is_down() -> bool:
            return any(lane.state.is_unready for lane in (await pool.survey()).lanes)

        await eventually(is_down)
        found = {(info.name, info.lane): info.digest for info in await client.models()}
        assert found == {("a:1b", "gpu0"): None, ("b:1b", "gpu1"): f"sha256:{digest_of('b')}"}
        assert any(
            "'gpu0'" in record.getMessage() for record in caplog.records if record.name.endswith("producer.models")
        )
        with pytest.raises(ProviderDown):
            await client.models(lane="gpu0")


async def test_a_command_that_is_tried_again_says_why(redis_url: str, pool: Pool) -> None:
    """What a lane cannot do because its model server is away is tried again, and who waits is told what for."""
    await pool.policies.write(Policy(max_starts=2))
    shelf = OllamaShelf(**{"old:latest": "I am old"})
    async with AsyncExitStack() as going, Client(redis_url) as client:
        url = await going.enter_async_context(served(shelf.app))
        async with lane_of(redis_url, ollama(url)):
            await going.aclose()
            said: list[str] = []
            async with aclosing(Models(client.link, "ops").follow("load", "old", None)) as steps:
                async for progress in steps:
                    said.append(progress.step)
                    if len(said) == 2:
                        break
    assert said[0] == "loading"
    assert said[1].startswith("lane gpu0: ")


async def test_code_that_is_not_asynchronous(redis_url: str) -> None:
    """The client for threads lists, pulls, verifies, loads and unloads as well; closing a pull stops the download."""
    shelf = OllamaShelf(**{"old:latest": "I am old"})
    shelf.registry["new:1b"] = "I am new"
    loop = asyncio.get_running_loop()

    def agent() -> list[str]:
        with SyncClient(redis_url) as client:
            steps = client.pull("new:1b")
            next(steps)
            steps.close()
            loop.call_soon_threadsafe(shelf.go.set)
            done = [progress.step for progress in client.pull("new:1b")][-1]
            client.load("new:1b")
            loaded = [info.name for info in client.models() if info.loaded]
            client.unload("new:1b")
            return [done, *loaded, client.verify("new:1b").digest or ""]

    shelf.go.clear()
    async with served(shelf.app) as url, lane_of(redis_url, ollama(url)):
        assert await asyncio.to_thread(agent) == ["success", "new:1b", f"sha256:{digest_of('I am new')}"]
    assert shelf.loaded == set()


async def worker(opened: Farm, url: str) -> Child:
    """A worker of that Ollama, ready to work."""
    child = await opened.tokenlane(
        *("worker", "--json", "--supervised", "--lane", "gpu0", "--provider", "ollama", "--endpoint", url)
    )
    await child.says('"worker"')
    return child


@pytest.mark.kills
async def test_a_pull_outlives_its_worker(redis_url: str, pool: Pool, tmp_path: Path) -> None:
    """Where the worker that pulls is killed, another of the lane begins anew, and who asked hears of nothing else."""
    await pool.policies.write(Policy(lease_ms=1000))
    shelf = OllamaShelf(**{"old:latest": "I am old"})
    shelf.registry["new:1b"] = "I am new"
    shelf.go.clear()
    async with served(shelf.app) as url, farm(tmp_path, redis_url) as opened, Client(redis_url) as client:
        first = await worker(opened, url)
        pulling = asyncio.create_task(steps_of(client, "new:1b"))
        await until(lambda: shelf.pulling == 1)
        await first.kill()
        await until(lambda: shelf.pulling == 0)
        await worker(opened, url)
        await until(lambda: shelf.pulling == 1)
        shelf.go.set()
        assert (await pulling)[-1].step == "success"
        assert (shelf.pulls, shelf.models["new:1b"]) == (2, "I am new")


async def test_a_bar_on_a_terminal(redis_url: str, tmp_path: Path) -> None:
    """On a terminal a pull shows one bar with what has come, of how much, and how fast."""
    shelf = OllamaShelf(**{"old:latest": "I am old"})
    shelf.registry["new:1b"] = "I am new"
    async with served(shelf.app) as url, lane_of(redis_url, ollama(url)):
        ours, theirs = pty.openpty()
        try:
            command = (sys.executable, "-m", "tokenlane.config", "models", "pull", "new:1b", "--redis", redis_url)
            environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120", "NO_COLOR": "1"}
            child = await asyncio.create_subprocess_exec(*command, stdout=theirs, stderr=theirs, env=environment)
            assert await child.wait() == 0
            said = os.read(ours, 65536).decode()
        finally:
            os.close(ours)
            os.close(theirs)
        assert "success" in said
        assert "100/100 bytes" in said
        assert "pulled new:1b" in said


async def test_the_command_line(redis_url: str, tmp_path: Path) -> None:
    """`models` does as the client does: lines for people, JSON for programs, exit codes; Ctrl-C stops the download."""
    shelf = OllamaShelf(**{"old:latest": "I am old"})
    shelf.registry["new:1b"] = "I am new"
    async with served(shelf.app) as url, farm(tmp_path, redis_url) as opened:
        await worker(opened, url)

        async def run(*words: str, code: int = 0) -> str:
            ended = await run_in_thread("models", *words, "--redis", redis_url)
            assert ended.code == code, ended
            return ended.error if code else ended.out

        listed = json.loads(await run("ls", "--json"))["models"]
        assert [(one["name"], one["lane"], one["digest"]) for one in listed] == [
            ("old:latest", "gpu0", f"sha256:{digest_of('I am old')}")
        ]
        assert (await run("verify", "old")).split() == [f"sha256:{digest_of('I am old')}", "old:latest"]
        assert "'typo'" in await run("pull", "typo", code=1)
        for words in (("pull", "new:1b"), ("ls",)):
            assert "connected lanes: gpu0" in await run(*words, "--lane", "gpu9", code=2)
        shelf.go.clear()
        pulling = await opened.tokenlane("models", "pull", "new:1b")
        await pulling.says("10 B of 40 B, 25 %")

        async def told() -> bool:
            ended = await run_in_thread("status", "--redis", redis_url)
            return any(
                {"new:1b", "gpu0,"} <= {*line.split()} and "10 B of 40 B" in line for line in ended.out.splitlines()
            )

        await eventually(told)
        assert (await pulling.end(signal.SIGINT)).code == 130
        await until(lambda: shelf.pulling == 0)
        shelf.go.set()
        lines = [json.loads(line) for line in (await run("pull", "new:1b", "--json")).splitlines()]
        assert lines[-1] == {"done": "pull", "model": "new:1b"}
        assert {"step": "success", "done_bytes": 100, "total_bytes": 100} in lines
        assert await run("load", "new:1b") == "loading\nloaded new:1b\n"
        assert shelf.loaded == {"new:1b"}
        table = (await run("ls", "--lane", "gpu0")).splitlines()
        assert table[0].split()[:4] == ["MODEL", "LANE", "PROVIDER", "LOADED"]
        assert [line.split()[3] for line in table[1:]] == ["no", "yes"]
        await run("unload", "new:1b")
        assert shelf.loaded == set()


async def test_a_request_for_a_model_that_is_lacking_has_it_pulled(redis_url: str, pool: Pool) -> None:
    """With auto_pull many requests for a model wait for one pull, say so, hold no slot, and are answered."""
    shelf = OllamaShelf(**{"old:latest": "I am old"})
    shelf.registry["new:1b"] = "I am new"
    shelf.go.clear()
    async with served(shelf.app) as url, lane_of(redis_url, ollama(url, auto_pull=True)), Client(redis_url) as client:
        async with client.chat("hi", role="planner", model="new:1b") as stream:
            others = [asyncio.create_task(client.complete("hi", role=f"r{n}", model="new:1b")) for n in range(5)]
            await until(lambda: "pulls 'new:1b': pulling: 10 B of 40 B" in (stream.waiting or ""))
            (lane,) = (await take_snapshot(pool)).lanes
            assert lane.offer.pulling["new:1b"].total_bytes == 40
            assert lane.slots["chat"] == Slots(1)
            assert (await client.complete("hi", role="planner", model="old")).text == "I am old"
            shelf.go.set()
            assert (await stream.answer()).text == "I am new"
            assert {(await other).text for other in others} == {"I am new"}
        assert shelf.pulls == 1
        assert not await raw(pool).exists("{main}:pulls")
    assert [name for name, _ in shelf.served] == ["old:latest", *["new:1b"] * 6]


async def test_a_model_nobody_has_ends_the_requests_that_wait_for_it(redis_url: str, pool: Pool) -> None:
    """A pull for requests that fails ends them with its error, and is not begun again for each that comes."""
    await pool.policies.write(Policy(patience_ms=100, lease_ms=3_000))
    shelf = OllamaShelf(**{"old:latest": "I am old"})
    async with served(shelf.app) as url, lane_of(redis_url, ollama(url, auto_pull=True)), Client(redis_url) as client:
        for _ in range(2):
            with pytest.raises(ModelNotFound, match="models pull typo:1b --lane gpu0"):
                await client.complete("hi", role="planner", model="typo:1b")
        assert shelf.pulls == 1


async def test_only_models_of_the_lane_are_pulled_for_requests(redis_url: str, pool: Pool) -> None:
    """A lane that names its models pulls those, one that may not pulls none, and a provider that cannot says so."""
    await pool.policies.write(Policy(patience_ms=100, lease_ms=3_000))
    shelf = OllamaShelf()
    shelf.registry = {"mine:1b": "I am mine", "other:1b": "I am not"}
    named = ollama("", auto_pull=True, models=("mine:1b",))
    async with served(shelf.app) as url, Client(redis_url) as client:
        async with lane_of(redis_url, replace(named, endpoint=url)):
            with pytest.raises(ModelNotFound):
                await client.complete("hi", role="planner", model="other:1b")
            assert (await client.complete("hi", role="planner")).text == "I am mine"
        async with lane_of(redis_url, ollama(url)):
            with pytest.raises(ModelNotFound):
                await client.complete("hi", role="planner", model="other:1b")
        assert shelf.pulls == 1
        with pytest.raises(BadRequest) as raised:
            async with lane_of(redis_url, LaneSettings("gpu1", "openai", url, auto_pull=True)):
                pass
        assert all(name in raised.value.message for name in ("auto_pull", "openai", "gpu1"))


@pytest.mark.parametrize("api", ["ollama", "lmstudio"])
async def test_the_simulators_pull_load_and_unload(redis_url: str, api: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against the simulator, which behaves as its original: a pull, chats by it, loading, unloading."""
    monkeypatch.setattr("tokenlane.worker.providers.openai.lmstudio.POLL_S", 0.01)
    async with (
        Simulator(api=api, models=["old:1b"], pullable=["new:1b=40MB"], pull_ms=100) as backend,
        lane_of(redis_url, LaneSettings("gpu0", api, backend.url)),
        Client(redis_url) as client,
    ):
        last = (await steps_of(client, "new:1b"))[-1]
        assert (last.step, last.done_bytes, last.total_bytes) == ("success", 40_000_000, 40_000_000)
        assert (await client.complete("hi", role="planner", model="new:1b")).model == "new:1b"
        for _ in range(2):
            await client.load("old:1b")
        assert {info.name for info in await client.models() if info.loaded} >= {"old:1b"}
        for model in ("old:1b", "new:1b"):
            await client.unload(model)
        assert not [info.name for info in await client.models() if info.loaded]
        with pytest.raises(ModelNotFound):
            await steps_of(client, "typo:1b")


async def test_the_simulators_other_content_is_not_served(redis_url: str) -> None:
    """While a pull would bring other content than pinned, chats are answered by the pinned one."""
    pinned, other = (Model("phi:4b", digest=digest_of(content)) for content in ("as pinned", "changed"))
    pins = {"phi:4b": f"sha256:{pinned.digest}"}
    async with (
        Simulator(api="ollama", models=[pinned], pullable=[other], pull_ms=150) as backend,
        lane_of(redis_url, LaneSettings("gpu0", "ollama", backend.url, digests=pins)),
        Client(redis_url) as client,
    ):
        await steps_of(client, "phi:4b")
        assert (await client.complete("hi", role="planner", model="phi:4b")).model == "phi:4b"
        assert [model.digest for model in backend.models.on_disk.values()] == [pinned.digest]
        assert "/api/pull" not in {received.path for received in backend.log}


async def test_a_pull_of_corrupt_content_is_no_model(redis_url: str) -> None:
    """Where the server finds that what it downloaded has another hash, the pull is a DigestMismatch."""
    async with (
        Simulator(api="ollama", models=["old:1b"], pullable=[Model("bad:1b", corrupt=True)]) as backend,
        lane_of(redis_url, LaneSettings("gpu0", "ollama", backend.url)),
        Client(redis_url) as client,
    ):
        with pytest.raises(DigestMismatch):
            await steps_of(client, "bad:1b")
        assert [info.name for info in await client.models()] == ["old:1b"]


async def test_what_a_server_cannot_is_told_with_what_to_do(redis_url: str) -> None:
    """A server that is started with its model is not told to load another: the error says what to do instead."""
    async with (
        Simulator(api="llamacpp", models=["org/toy"]) as backend,
        lane_of(redis_url, LaneSettings("gpu0", "llamacpp", backend.url)),
        Client(redis_url) as client,
    ):
        with pytest.raises(BadRequest, match=r"^Loading.*llamacpp.*\bstart\b"):
            await client.load("org/toy")
        with pytest.raises(BadRequest, match=r"^Unloading.*llamacpp.*\bstop\b"):
            await client.unload("org/toy")
