"""The client for code that is not asynchronous, in threads and processes of its own."""

from __future__ import annotations

import asyncio
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from pydantic import BaseModel
from tests.integration.farm import farm
from tests.integration.life import PREFIX, raw, state_of
from tests.integration.stand_in import Run, StandIn

from tokenlane.producer import Answer, PoolUnavailable, RequestCancelled
from tokenlane.producer.sync import Client
from tokenlane.routing.contract.wire import new_id
from tokenlane.routing.store.pool import Pool


def threads() -> list[str]:
    """The clients' threads of this process."""
    return [thread.name for thread in threading.enumerate() if thread.name == "tokenlane client"]


class City(BaseModel):
    name: str


async def test_every_method(redis_url: str, worker: StandIn, pool: Pool) -> None:
    """Stream, whole answer, a model, attaching and cancelling work as in the asynchronous client."""
    saying = asyncio.Event()
    loop = asyncio.get_running_loop()

    def agent() -> tuple[list[str], Answer[City], list[str]]:
        with Client(redis_url, agent="agent1") as client:
            with client.chat("one", role="planner", max_tokens=3) as stream:
                first = next(stream)
                loop.call_soon_threadsafe(saying.set)
                with client.attach(stream.request_id, after=first.position) as joined:
                    rest = [delta.text for delta in joined if delta.text]
                texts = [first.text, *(delta.text for delta in stream if delta.text)]
                assert stream.answer().text == stream.text == "".join(texts)
                assert stream.usage is not None
                assert (stream.waiting, stream.request_id) == (None, first.request_id)
                assert not hasattr(stream, "nonsense")
            answer = client.complete("two", role="planner", response_format=City)
            with client.chat("three", role="nobody", model="none") as stream:
                stream.cancel()
                with pytest.raises(RequestCancelled):
                    next(stream)
            assert client.cancel(new_id()) is False
            with pytest.raises(RuntimeError, match=r"`with client\.chat"):
                client.chat("four", role="planner").answer()
            return texts, answer, rest

    working = asyncio.create_task(asyncio.to_thread(agent))
    run = await worker.next_run()
    assert run.request.max_tokens == 3
    await run.say("a")
    await saying.wait()
    await run.say("b")
    await run.complete("c")
    await (await worker.next_run()).complete('{"name": "Bonn"}')
    texts, answer, rest = await working
    assert (texts, rest) == (["a", "b", "c"], ["b", "c"])
    assert answer.parsed == City(name="Bonn")
    assert threads() == []
    assert await raw(pool).zcard(f"{PREFIX}clients") == 0


async def test_a_conversation(redis_url: str, worker: StandIn) -> None:
    """It is asked, copied and emptied as the asynchronous one is."""

    def agent() -> list[str]:
        with Client(redis_url) as client:
            conversation = client.conversation(role="planner", id="c-7", system="s")
            with conversation.ask("one") as stream:
                assert "".join(delta.text for delta in stream) == "1"
            fork = conversation.fork()
            assert fork.complete("two").text == "2"
            with pytest.raises(ValueError):
                fork.add_tool_result("c", "r")
            conversation.load(fork.save())
            texts = [str(message.content) for message in conversation.messages]
            fork.clear()
            fork.refresh()
            assert (conversation.id, conversation.left_out, conversation.open_calls) == ("c-7", 0, [])
            assert len(fork.messages) == 1
            return texts

    working = asyncio.create_task(asyncio.to_thread(agent))
    for text in "12":
        await (await worker.next_run()).complete(text)
    assert await working == ["s", "one", "1", "two", "2"]


async def test_many_threads_share_a_client(redis_url: str, worker: StandIn) -> None:
    """Threads that use one client at the same time each get their own answer."""

    def agents() -> list[str]:
        with Client(redis_url) as client, ThreadPoolExecutor(16) as pool:
            return list(pool.map(lambda number: client.complete(f"say {number}", role="planner").text, range(32)))

    async def answer(run: Run) -> None:
        content = run.request.messages[0].content
        assert isinstance(content, str)
        await run.complete(content)

    working = asyncio.create_task(asyncio.to_thread(agents))
    for _ in range(32):
        await answer(await worker.next_run())
    assert await working == [f"say {number}" for number in range(32)]


async def test_leaving_cancels_what_runs(redis_url: str, worker: StandIn) -> None:
    """Leaving a stream early, and the client with a stream open, cancel; an error in the block stays itself."""

    def leave() -> None:
        with Client(redis_url) as client:
            left_open = client.chat("left open", role="planner").__enter__()
            with client.chat("left early", role="planner") as stream:
                next(left_open)
                next(stream)
                raise ZeroDivisionError

    working = asyncio.create_task(asyncio.to_thread(leave))
    runs = [await worker.next_run(), await worker.next_run()]
    await asyncio.gather(*(run.say("a") for run in runs))
    with pytest.raises(ZeroDivisionError):
        await working
    async with asyncio.timeout(10):
        for run in runs:
            await run.cancelled.wait()
    assert threads() == []


def test_a_client_that_is_not_open(redis_url: str) -> None:
    """Before and after its block, and without a pool, it says what is wrong; a thread is not left behind."""
    client = Client(redis_url)
    for use in (lambda: client.chat("x", role="r"), lambda: client.complete("x", role="r"), lambda: client.cancel("x")):
        with pytest.raises(RuntimeError, match="`with Client"):
            use()
    with client:
        stream = client.chat("x", role="r")
    with pytest.raises(RuntimeError, match="with Client"):
        stream.__enter__()
    with client:  # again
        assert client.cancel(new_id()) is False
    with pytest.raises(PoolUnavailable, match=r"\b127\.0\.0\.1:1\b"):
        Client("redis://127.0.0.1:1").__enter__()
    assert threads() == []


def test_a_client_that_is_entered_twice(redis_url: str) -> None:
    """The second time is refused, and changes nothing: the block goes on, ends, and may be entered again."""
    client = Client(redis_url)
    for _ in range(2):
        with client:
            for _ in range(2):
                with pytest.raises(RuntimeError):
                    client.__enter__()
            assert client.cancel(new_id()) is False
            assert len(threads()) == 1
        assert threads() == []


FORKED = """
import os, sys, warnings
from tokenlane.producer.sync import Client
warnings.simplefilter("ignore", DeprecationWarning)  # Python's own, of forks of processes with threads

with Client(sys.argv[1]) as client:
    child = os.fork()
    if child == 0:
        for use in (lambda: client.complete("x", role="r"), client.__enter__):
            try:
                use()
            except RuntimeError as error:
                print(error, flush=True)
        client.__exit__()
        with Client(sys.argv[1]) as own:
            print("own", own.cancel("0" * 32), flush=True)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    print("parent", status, client.cancel("0" * 32), flush=True)
"""


async def test_a_fork(redis_url: str, tmp_path: Path) -> None:
    """In a fork the parent's client says what to do and does no harm; a new one works, and so does the parent's."""
    async with farm(tmp_path, redis_url) as opened:
        ended = await (await opened.python(FORKED, redis_url)).ended()
    assert ended.code == 0, ended
    *refused, own, parent = ended.out.splitlines()
    assert ["this fork" in one for one in refused] == [True, True]
    assert (own, parent) == ("own False", "parent 0 False")


INTERRUPTED = """
import sys
from tokenlane.producer.sync import Client

with Client(sys.argv[1]) as client:
    try:
        if sys.argv[2] == "stream":
            with client.chat("x", role="planner") as stream:
                print(stream.request_id, flush=True)
                for delta in stream:
                    print(delta.text, flush=True)
        else:
            client.complete("x", role="planner")
    except KeyboardInterrupt:
        print("interrupted", flush=True)
    print(client.cancel("0" * 32), flush=True)
"""


@pytest.mark.parametrize("how", ["stream", "complete"])
async def test_ctrl_c(redis_url: str, worker: StandIn, pool: Pool, tmp_path: Path, how: str) -> None:
    """Ctrl-C in the middle of an answer cancels the request, and the client is as good as before."""
    async with farm(tmp_path, redis_url) as opened:
        child = await opened.python(INTERRUPTED, redis_url, how)
        run = await worker.next_run()
        await run.say("first")
        if how == "stream":
            async with asyncio.timeout(20):
                while "first" not in child.out:
                    await asyncio.sleep(0.01)
        child.process.send_signal(signal.SIGINT)
        async with asyncio.timeout(20):
            await run.cancelled.wait()
        ended = await child.ended()
    assert ended.code == 0, ended
    assert ended.out.splitlines()[-2:] == ["interrupted", "False"]
    assert await state_of(pool, run.id) == "running"  # flagged: it ends when its worker has closed the stream
    assert await raw(pool).hget(f"{PREFIX}request:{run.id}", "cancel") == b"cancelled"


def test_asking_touches_the_loop_from_its_own_thread_alone(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In asyncio's debug mode, which tells what is done from another thread, many requests can be made."""
    monkeypatch.setenv("PYTHONASYNCIODEBUG", "1")
    with Client(redis_url) as client:
        streams = [client.chat("hello", role="planner") for _ in range(20)]
        assert len({stream.request_id for stream in streams}) == 20
