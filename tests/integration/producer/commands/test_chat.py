"""`tokenlane chat` as people and scripts run it."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import shlex
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.integration.life import raw, state_of
from tests.integration.stand_in import Run, StandIn
from tests.verbs import run_in_thread

from tokenlane.config import exit_codes as exits
from tokenlane.config.host.embedded_server import EmbeddedServer
from tokenlane.producer import ProviderDown, TokenDelta
from tokenlane.routing.contract.messages import Deltas
from tokenlane.routing.decide.policy import Policy
from tokenlane.routing.store.pool import Pool

ESCAPES = "\x1b[31mred\x1b]0;title\x07\r\x9b1m\x7f[/bold]\n\tend"


@asynccontextmanager
async def chat(
    *arguments: str | bytes,
    stdout: int = asyncio.subprocess.PIPE,
    stderr: int = asyncio.subprocess.PIPE,
    verb: str = "chat",
    **more: str,
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run `tokenlane chat`, or another verb; it is killed if it outlives the test."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TOKENLANE_")}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", "from tokenlane.config.cli.root import main; main()", verb, *arguments),
        stdin=asyncio.subprocess.PIPE,
        stdout=stdout,
        stderr=stderr,
        env=environment | {"NO_COLOR": "1", "TERMINAL_WIDTH": "200"} | more,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def ended(process: asyncio.subprocess.Process, typed: bytes | None = None) -> tuple[int | None, str, str]:
    """Exit code, standard output and error."""
    async with asyncio.timeout(30):
        out, error = await process.communicate(typed)
    return process.returncode, (out or b"").decode(), (error or b"").decode()


async def line(stream: asyncio.StreamReader | None) -> str:
    """The next line."""
    assert stream is not None
    async with asyncio.timeout(20):
        return (await stream.readline()).decode()


async def test_the_answer_is_streamed(redis_url: str, worker: StandIn) -> None:
    """Text is written as it comes, as it is, with one line end at the end."""
    async with chat("Name three primes.", "--role", "planner", "--redis", redis_url, "--max-tokens", "9") as process:
        run = await worker.next_run()
        assert (run.envelope.role, run.request.max_tokens) == ("planner", 9)
        await run.say("2, 3\n")
        assert await line(process.stdout) == "2, 3\n"
        await run.say("[bold]π 🙂[/bold]")
        await run.complete()
        assert await ended(process) == (exits.OK, "[bold]π 🙂[/bold]\n", "")


async def test_a_pool_that_refuses_the_database(redis_url: str) -> None:
    """What the server says against it is told, not that there is none."""
    async with EmbeddedServer() as server:
        refused = await run_in_thread("chat", "hello", "--redis", server.url.replace("db=0", "db=99"))
    assert refused.code == exits.USAGE
    assert "database" in refused.error


async def test_a_url_with_an_option_of_redis_py(redis_url: str, worker: StandIn) -> None:
    """An option that would change what replies look like has no effect."""
    separator = "&" if "?" in redis_url else "?"
    async with chat("hello", "--redis", f"{redis_url}{separator}decode_responses=true") as process:
        run = await worker.next_run()
        await run.say("one")
        await run.complete()
        assert await ended(process) == (exits.OK, "one\n", "")


@pytest.mark.parametrize(
    ("command", "subject"),
    [
        ("chat hello --pool 'a b'", "Pool name 'a b'"),
        ("router --pool 'a b'", "Pool name 'a b'"),
        ("worker --provider openai --endpoint http://127.0.0.1:1 --pool 'a b'", "Pool name 'a b'"),
        ("up --provider openai --endpoint http://127.0.0.1:1 --pool 'a b'", "Pool name 'a b'"),
        ("chat hello --timeout inf", "number of seconds"),
    ],
)
async def test_a_wrong_argument(command: str, subject: str, redis_url: str, tmp_path: Path) -> None:
    """The error is one message that names the wrong argument."""
    surroundings = {"TOKENLANE_REDIS_URL": redis_url, "TOKENLANE_HOME": str(tmp_path)}
    refused = await run_in_thread(*shlex.split(command), **surroundings)
    assert refused.code in (exits.FAILED, exits.USAGE), refused
    assert subject.casefold() in refused.error.casefold()
    assert "Traceback" not in refused.error


@pytest.mark.parametrize(
    ("command", "subject"),
    [
        ("chat - <&-", "standard input"),
        ("chat hello >&-", "standard output"),
        ("status --help >/dev/full", "standard output"),
    ],
)
async def test_a_closed_stream(command: str, subject: str, redis_url: str, tmp_path: Path) -> None:
    """The error is one message that names the closed stream."""
    shell = f'exec {sys.executable} -c "from tokenlane.config.cli.root import main; main()" {command}'
    surroundings = {"TOKENLANE_REDIS_URL": redis_url, "TOKENLANE_HOME": str(tmp_path)}
    process = await asyncio.create_subprocess_exec(
        *("sh", "-c", shell), stderr=asyncio.subprocess.PIPE, env={**os.environ, **surroundings}
    )
    async with asyncio.timeout(30):
        _, error = await process.communicate()
    assert process.returncode in (exits.FAILED, exits.USAGE), error.decode()
    assert subject.casefold() in error.decode().casefold()
    assert "Traceback" not in error.decode()
    assert "Exception ignored" not in error.decode()


async def test_a_full_disk_under_the_answer(redis_url: str, worker: StandIn) -> None:
    """An answer that cannot be written ends with a message."""
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        async with chat("hello", "--redis", redis_url, stdout=full) as process:
            run = await worker.next_run()
            await run.say("one\n")
            code, _, said = await ended(process)
    finally:
        os.close(full)
    assert (code, said) == (exits.FAILED, "tokenlane: Standard output cannot be written: No space left on device.\n")


async def test_options_reach_the_worker(redis_url: str, worker: StandIn) -> None:
    """System message, model, temperature, priority and timeout are part of the request."""
    options = ("--system", "be short", "--model", "m1", "--temperature", "0.5", "--priority", "high", "--timeout", "9")
    async with chat("hi", "--redis", redis_url, *options) as process:
        run = await worker.next_run()
        assert [(message.role, message.content) for message in run.request.messages] == [
            ("system", "be short"),
            ("user", "hi"),
        ]
        assert (run.request.model, run.request.temperature, run.request.priority) == ("m1", 0.5, "high")
        assert run.request.time_to_live_ms == 9000
        await run.complete("a")
        assert await ended(process) == (exits.OK, "a\n", "")


async def test_llm_asks_for_a_provider_and_a_model(redis_url: str, worker: StandIn) -> None:
    """What --llm names is asked for, and --model wins over it; what variables say of a lane is not."""
    llm = ("--llm", "provider=stand-in", "model=m2")
    for given, wanted in [(llm, ("stand-in", "m2")), ((*llm, "--model", "m1"), ("stand-in", "m1")), ((), (None, None))]:
        async with chat("hi", "--redis", redis_url, *given, TOKENLANE_PROVIDER="vllm") as process:
            run = await worker.next_run()
            assert (run.request.provider, run.request.model) == wanted
            await run.complete("a")
            assert await ended(process) == (exits.OK, "a\n", "")


async def test_json_is_one_object_a_line(redis_url: str, worker: StandIn) -> None:
    """With --json each delta is a line, and the usage is the last."""
    async with chat("hi", "--redis", redis_url, "--json") as process:
        run = await worker.next_run()
        await run.say("a\n", ESCAPES)
        await run.complete()
        code, out, _ = await ended(process)
    lines = [json.loads(one) for one in out.splitlines()]
    assert code == exits.OK
    assert [one["text"] for one in lines[:-1]] == ["a\n", ESCAPES, ""]
    assert [one["position"] for one in lines[:-1]] == [0, 1, 2]
    assert "\x1b" not in out
    assert lines[-1]["request_id"] == run.id
    assert lines[-1]["usage"]["prompt_tokens"] == 3


async def test_the_question_is_read_from_standard_input(redis_url: str, worker: StandIn) -> None:
    """`-` reads the question, as it is."""
    async with chat("-", "--redis", redis_url) as process:
        reading = asyncio.create_task(ended(process, "Wie heißt du?\n".encode()))
        run = await worker.next_run()
        assert run.request.messages[0].content == "Wie heißt du?\n"
        await run.complete("a")
        assert (await reading)[0] == exits.OK


@pytest.mark.parametrize(
    ("argument", "typed", "says"),
    [
        (b"-", b"\xff\xfe", "UTF-8"),
        (b"\xff", b"", "UTF-8"),
        (b"-", b"", "question on standard input"),
        (b"-", b" \n", "question on standard input"),
    ],
)
async def test_what_is_no_question(redis_url: str, argument: bytes, typed: bytes, says: str) -> None:
    """Wrong input is told in one message, with exit code 2 and no traceback."""
    async with chat(argument, "--redis", redis_url) as process:
        code, out, error = await ended(process, typed)
    assert (code, out) == (exits.USAGE, "")
    assert says in error
    assert "Traceback" not in error


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["hi", "--max-tokens", "0"], "max_tokens"),
        (["hi", "--role", "no role"], "role"),
        (["hi", "--nonsense"], "nonsense"),
        ([], "question"),
        ([""], "question is empty"),
        (["hi", "--redis", "http://127.0.0.1:1"], "Redis URL"),
    ],
)
async def test_wrong_usage(redis_url: str, arguments: list[str], says: str) -> None:
    """A wrong argument is told in one message, with exit code 2 and no traceback."""
    redis = [] if "--redis" in arguments else ["--redis", redis_url]
    refused = await run_in_thread("chat", *arguments, *redis)
    assert (refused.code, refused.out) == (exits.USAGE, "")
    assert says in refused.error
    assert "Traceback" not in refused.error


async def test_no_pool_at_all(tmp_path: Path) -> None:
    """Without any pool it says how to start one."""
    refused = await run_in_thread("chat", "hi", TOKENLANE_HOME=str(tmp_path))
    assert refused.code == exits.USAGE
    assert "tokenlane up" in refused.error


async def test_a_failure_is_told(redis_url: str, worker: StandIn) -> None:
    """A request that fails exits with 1, what came before on standard output, the error and where on the other."""
    async with chat("hi", "--redis", redis_url) as process:
        run = await worker.next_run()
        await run.say("half")
        await run.fail(ProviderDown("it went away", lane="lane1", detail="it said \x1b[2Jboo"))
        code, out, error = await ended(process)
    assert (code, out) == (exits.FAILED, "half")
    assert "it went away" in error
    assert "lane1" in error
    assert "\x1b" not in error


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_a_signal_cancels(redis_url: str, worker: StandIn, pool: Pool, stop: signal.Signals) -> None:
    """Told to stop, it cancels the request on the server and exits with 128 and the signal, without a traceback."""
    async with chat("hi", "--redis", redis_url) as process:
        run = await worker.next_run()
        await run.say("one\n")
        assert await line(process.stdout) == "one\n"
        process.send_signal(stop)
        code, _, error = await ended(process)
        assert code == 128 + stop
        assert "Traceback" not in error
        async with asyncio.timeout(10):
            await run.cancelled.wait()


async def test_ctrl_c_while_it_waits_and_why(redis_url: str, pool: Pool) -> None:
    """After 2 s it says why nothing happens; SIGINT then cancels what waits."""
    async with chat("hi", "--redis", redis_url) as process:
        assert "connected to pool 'main'" in await line(process.stderr)
        request_id = await only_request(pool)
        process.send_signal(signal.SIGINT)
        code, _, _ = await ended(process)
        assert code == exits.CANCELLED
        assert await state_of(pool, request_id) == "cancelled"


async def test_embed_says_why_it_waits_too(redis_url: str, pool: Pool) -> None:
    """As chat does; --timeout ends it, with the error's code in JSON."""
    await pool.policies.write(Policy(patience_ms=60_000))
    async with chat("hi", "--redis", redis_url, "--timeout", "3", "--json", verb="embed") as process:
        assert "connected to pool 'main'" in await line(process.stderr)
        code, out, _ = await ended(process)
    assert (code, json.loads(out)["error"]["code"]) == (exits.FAILED, "deadline_exceeded")


async def only_request(pool: Pool) -> str:
    """The id of the only request there is."""
    (key,) = [key async for key in raw(pool).scan_iter("{main}:request:*")]
    assert isinstance(key, bytes)
    return key.decode().rpartition(":")[2]


@pytest.mark.parametrize("options", [(), ("--json",)])
async def test_a_closed_pipe_cancels(redis_url: str, worker: StandIn, options: tuple[str, ...]) -> None:
    """When whoever reads the output goes away, the request is cancelled, and nothing is said."""
    read, write = os.pipe()
    async with chat("hi", "--redis", redis_url, *options, stdout=write) as process:
        os.close(write)
        os.close(read)
        run = await worker.next_run()
        await run.say("nobody reads this")
        code, _, error = await ended(process)
        assert (code, error) == (exits.CLOSED_PIPE, "")
        assert "Traceback" not in error
        async with asyncio.timeout(10):
            await run.cancelled.wait()


async def test_a_terminal_is_not_steered(redis_url: str, worker: StandIn) -> None:
    """On a terminal, control characters in a model's words are left out; line ends and tabs are not."""
    ours, theirs = pty.openpty()
    try:
        async with chat("hi", "--redis", redis_url, stdout=theirs) as process:
            os.close(theirs)
            run = await worker.next_run()
            await run.complete(ESCAPES)
            shown = b""
            while b"end\r\n" not in shown:
                shown += await asyncio.to_thread(os.read, ours, 1000)
            assert (await ended(process))[0] == exits.OK
    finally:
        os.close(ours)
    assert shown.decode() == "[31mred]0;title1m[/bold]\r\n\tend\r\n"


@pytest.mark.parametrize("text", ["half", "whole\n"])
async def test_an_error_on_a_terminal_has_its_own_line(text: str, redis_url: str, worker: StandIn) -> None:
    """An answer that breaks off on a terminal ends with one line end, so that the error does not follow its text."""
    ours, theirs = pty.openpty()
    try:
        async with chat("hi", "--redis", redis_url, stdout=theirs) as process:
            run = await worker.next_run()
            await run.say(text)
            await run.fail(ProviderDown("it went away"))
            assert (await ended(process))[0] == exits.FAILED
            os.write(theirs, b"error")  # where the terminal would show standard error
        shown = b""
        while b"error" not in shown:
            shown += await asyncio.to_thread(os.read, ours, 1000)
    finally:
        os.close(theirs)
        os.close(ours)
    assert shown.decode() == f"{text.strip()}\r\nerror"


@pytest.mark.parametrize("restarted", [False, True])
async def test_a_person_sees_what_happens_to_an_answer(
    restarted: bool, redis_url: str, worker: StandIn, pool: Pool
) -> None:
    """On a terminal, an answer that another lane continues or begins anew says so on a line of its own."""
    ours, theirs = pty.openpty()
    try:
        async with chat("hi", "--redis", redis_url, stdout=theirs, stderr=theirs) as process:
            os.close(theirs)
            first = await worker.next_run()
            assert first.request.on_interrupt == "restart"
            await first.say("one ")
            again = await next_attempt(worker, pool, first)
            again.first = (await again.ask_resume()).position
            shown = await read_until(ours, b"one ")
            delta = TokenDelta(text="two\n", finish_reason="stop")
            await again.publish(
                Deltas(
                    attempt=again.attempt,
                    worker=again.worker,
                    lane="lane2",
                    model="m1",
                    first=0 if restarted else again.first,
                    deltas=[delta],
                    begun_by=again.attempt if restarted else 0,
                )
            )
            shown += await read_until(ours, b"two")
            process.terminate()
            await ended(process)
    finally:
        os.close(ours)
    one, what, two = shown.decode().split("\r\n")
    assert (one, two) == ("one ", "two")
    assert "'lane1'" in what
    assert "'lane2'" in what
    assert ("anew" in what) == restarted


async def test_a_file_has_one_answer(redis_url: str, worker: StandIn, pool: Pool) -> None:
    """Where no person reads, an answer that another lane continues is just its text, and none begins anew."""
    async with chat("hi", "--redis", redis_url) as process:
        first = await worker.next_run()
        assert first.request.on_interrupt == "error"
        await first.say("one ")
        again = await next_attempt(worker, pool, first)
        again.first = (await again.ask_resume()).position
        await again.complete("two")
        assert await ended(process) == (exits.OK, "one two\n", "")


async def next_attempt(worker: StandIn, pool: Pool, run: Run) -> Run:
    """Put a request whose answer has begun back into its queue."""
    await pool.requests.requeue(run.id, run.attempt, run.worker)
    return await worker.next_run()


async def read_until(terminal: int, end: bytes) -> bytes:
    """What a terminal shows, up to this text."""
    shown = b""
    async with asyncio.timeout(20):
        while end not in shown:
            shown += await asyncio.to_thread(os.read, terminal, 1000)
    return shown[: shown.index(end) + len(end)]
