"""Models are loaded in the order in which requests need them, and none is unloaded while a request uses it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import pytest

from tokenlane.routing.contract.errors import ProviderDown
from tokenlane.worker.providers.residency import Residency


class Server:
    """Holds so many models, and fails if one is unloaded while a request uses it."""

    def __init__(self, most: int | None, *loaded: str) -> None:
        self.most, self.loaded = most, list(loaded)
        self.history: list[str] = []
        self.running: list[str] = []
        self.fails = False

    async def in_memory(self) -> tuple[Iterable[str], int | None]:
        return tuple(self.loaded), self.most

    async def load_now(self, model: str) -> None:
        await asyncio.sleep(0)
        if self.fails:
            raise ProviderDown
        self.loaded.append(model)
        self.history.append(f"+{model}")
        assert self.most is None or len(self.loaded) <= self.most

    async def unload_now(self, model: str) -> None:
        assert model not in self.running
        await asyncio.sleep(0)
        assert model not in self.running
        self.loaded.remove(model)
        self.history.append(f"-{model}")


async def run(residency: Residency, server: Server, model: str, go: asyncio.Event) -> None:
    """A request that uses the model until it may end."""
    async with residency.using(model):
        assert model in server.loaded
        server.running.append(model)
        await go.wait()
        server.running.remove(model)


async def settle() -> None:
    """Let every task run as far as it can."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_a_model_leaves_only_when_it_is_idle() -> None:
    """A request for another model waits; requests for the loaded one overtake it only for a while."""
    for patience_s, history in ((60.0, ["-a", "+b"]), (0.0, ["-a", "+b", "-b", "+a"])):
        server, first, second = Server(1, "a"), asyncio.Event(), asyncio.Event()
        residency = Residency(server, patience_s=patience_s)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(run(residency, server, "a", first))
            await settle()
            waits = tasks.create_task(run(residency, server, "b", second))
            await settle()
            late = tasks.create_task(run(residency, server, "a", first))
            await settle()
            assert server.running == ["a"] * (2 if patience_s else 1)
            first.set()
            await settle()
            assert server.running == ["b"]
            second.set()
        assert waits.done()
        assert late.done()
        assert server.history == history


async def test_the_least_recently_used_idle_model_leaves() -> None:
    """A model in use stays, however long ago it was last asked for."""
    server, go, done = Server(2, "a", "b"), asyncio.Event(), asyncio.Event()
    done.set()
    residency = Residency(server)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(run(residency, server, "a", go))
        await settle()
        await run(residency, server, "b", done)
        await run(residency, server, "c", done)
        assert server.history == ["-b", "+c"]
        go.set()
    await residency.load("b")
    assert server.history == ["-b", "+c", "-c", "+b"]


async def test_unloading_waits_for_the_last_request() -> None:
    """Requests that arrive meanwhile load the model again; an unloaded model is not unloaded twice."""
    server, go = Server(None, "a"), asyncio.Event()
    residency = Residency(server)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(run(residency, server, "a", go))
        await settle()
        unloading = tasks.create_task(residency.unload("a"))
        await settle()
        tasks.create_task(run(residency, server, "a", go))
        await settle()
        assert not unloading.done()
        assert server.running == ["a"]
        go.set()
    assert server.history == ["-a", "+a"]
    await residency.unload("b")


async def test_a_load_that_fails_or_is_cancelled_leaves_the_turn() -> None:
    """The next request tries again."""
    server, go = Server(1, "a"), asyncio.Event()
    residency = Residency(server)
    server.fails = True
    with pytest.raises(ProviderDown):
        await residency.load("b")
    server.fails = False
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(run(residency, server, "a", go))
        await settle()
        waits = tasks.create_task(residency.load("b"))
        await settle()
        waits.cancel()
        await settle()
        assert server.running == ["a"]
        go.set()
    await residency.load("b")
    assert server.loaded == ["b"]


async def test_what_the_server_lists_counts() -> None:
    """A server that restarted without the model gets the request only after it has loaded the model again."""
    server, done = Server(1, "a"), asyncio.Event()
    done.set()
    residency = Residency(server)
    await run(residency, server, "a", done)
    server.loaded.clear()
    residency.note((), residency.begin_listing())
    await run(residency, server, "a", done)
    assert server.history == ["+a"]


async def test_an_older_list_changes_nothing() -> None:
    """Lists may arrive in another order than they were asked for, and after a model was loaded or unloaded."""
    server, done = Server(1, "a"), asyncio.Event()
    done.set()
    residency = Residency(server)
    older, newer = residency.begin_listing(), residency.begin_listing()
    residency.note(("a",), newer)
    residency.note((), older)
    await run(residency, server, "a", done)
    before = residency.begin_listing()
    await residency.load("b")
    residency.note(("a",), before)
    await run(residency, server, "b", done)
    assert server.history == ["-a", "+b"]
    assert residency._loaded == {"b": None}
