"""`tokenlane up`: a pool, a model server and a worker on this machine, until Ctrl-C."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import sys
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import typer

from tokenlane.config.children import ended, started
from tokenlane.config.environment import short_names
from tokenlane.config.exits import FAILED, OK, ConfigError
from tokenlane.config.inviting import Invitation
from tokenlane.config.load import configured_redis, names_provider, own_lane, pool_name, pool_settings, read
from tokenlane.config.output import note
from tokenlane.config.plain import json_text, one_line
from tokenlane.config.stopping import told_to_stop
from tokenlane.config.values import LaneSettings, RedisSettings
from tokenlane.routing.commands import completion
from tokenlane.routing.commands.failing import as_user_error
from tokenlane.routing.errors import LlmError
from tokenlane.routing.policy import Policy
from tokenlane.routing.policy_file import policy_of
from tokenlane.routing.pool import connect
from tokenlane.worker.builtin import MODEL_NAME
from tokenlane.worker.builtin.server import needs_server, with_own_server
from tokenlane.worker.probe import Sighting
from tokenlane.worker.serve import DRAIN_S

from .choose import choose, reason
from .download import download_bar
from .own_redis import OwnRedis, own_redis
from .supervised import broken_off, when_input_ends

__all__ = ["up"]

_RESTART_AFTER_S = 1.0
_KILL_AFTER_S = 15.0
_BURY_S = 2.0


@dataclass(frozen=True)
class _Report:
    """What is said to whoever started this: text for a person, or a JSON line for a program."""

    as_json: bool

    def __call__(self, event: str, text: str, **facts: object) -> None:
        if self.as_json:
            note(json_text({"event": event, **facts}))
        elif text:
            note(text)


def up(
    redis: Annotated[str | None, typer.Option(help="Use this Redis instead of an embedded server.")] = None,
    pool: Annotated[str | None, typer.Option(help="The pool's name.")] = None,
    lane: Annotated[str | None, typer.Option(help="The lane's name.", autocompletion=completion.lanes)] = None,
    provider: Annotated[
        str | None, typer.Option(help="The kind of back end.", autocompletion=completion.providers)
    ] = None,
    endpoint: Annotated[str | None, typer.Option(help="The back end's URL; the built-in model has its own.")] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(help="A model the lane serves; may be repeated.", autocompletion=completion.models),
    ] = None,
    capacity: Annotated[int | None, typer.Option(help="Requests the lane serves at once.", min=1)] = None,
    listen: Annotated[
        str | None, typer.Option(help="Let other machines in, with a password, at HOST or HOST:PORT (6379).")
    ] = None,
    private: Annotated[bool, typer.Option(help="Do not let this user's other commands find this pool.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Report each step as a JSON line.")] = False,
    supervised: Annotated[bool, typer.Option(hidden=True, help="Stop when standard input ends.")] = False,
) -> None:
    """Start a pool and a worker on this machine; Ctrl-C drains and stops them."""
    other = configured_redis(redis, only_command_line=private)
    if listen is not None and (other is not None or private):
        which = "--private" if other is None else f"--redis, or what else names {other.safe_url}"
        raise ConfigError(f"--listen is for the embedded server: leave out {which}.")
    models = tuple(model or ())
    own = partial(pool_settings, lane=lane, models=models, capacity=capacity)
    lanes = own(provider=provider, endpoint=endpoint)
    seen = None
    if not names_provider(own_lane(lane=lane, provider=provider, endpoint=endpoint, models=models)):
        seen = choose(lanes[0])
    if seen is not None:
        lanes = own(provider=seen.provider, endpoint=seen.lane.endpoint)
    settings = read()
    policy = policy_of(settings) if settings.document.has_policy else None
    try:
        server = nullcontext(other) if other is not None else own_redis(private=private, listen=listen)
        code = asyncio.run(_up(lanes, seen, policy, server, pool_name(pool), _Report(as_json), supervised))
    except LlmError as error:
        raise as_user_error(error) from error
    raise typer.Exit(code)


async def _up(
    lanes: list[LaneSettings],
    seen: Sighting | None,
    policy: Policy | None,
    server: AbstractAsyncContextManager[OwnRedis | RedisSettings],
    pool: str,
    report: _Report,
    supervised: bool,
) -> int:
    with told_to_stop() as stopping, when_input_ends(stopping.set) if supervised else nullcontext():
        async with AsyncExitStack() as stack:
            workers: list[_Worker] = []
            async with broken_off(stopping):
                workers = await _start(lanes, seen, policy, server, pool, report, stack)
            return await _serve_all(workers, stopping)


async def _start(
    lanes: list[LaneSettings],
    seen: Sighting | None,
    policy: Policy | None,
    server: AbstractAsyncContextManager[OwnRedis | RedisSettings],
    pool: str,
    report: _Report,
    stack: AsyncExitStack,
) -> list[_Worker]:
    """Start all but the workers."""
    opened = await stack.enter_async_context(server)
    where = opened.here if isinstance(opened, OwnRedis) else opened
    key_id, told = await _prepare(where, pool, policy, ours=isinstance(opened, OwnRedis))
    sealed = f", sealed with key {key_id}" if key_id else ""
    public = opened.public if isinstance(opened, OwnRedis) else None
    # With a public one the URL has a password, and what is reported may be kept in a journal.
    url = where.url if public is None else where.safe_url
    report("pool", f"pool    {pool} at {where.safe_url}{sealed}", redis=url, pool=pool, key=key_id)
    if told:
        report("policy", f"policy  {told}", policy=told)
    if public is not None:
        text = f"listen  {public.safe_url}. What to paste on another host, with its secrets: tokenlane invite"
        if sys.stdout.isatty():
            text = f"\n{Invitation(public.url, pool, public.keys).text()}\nThe same again: tokenlane invite\n"
        report("listen", text, redis=public.safe_url)
    if seen is not None:
        report("model", f"model   {reason(seen)}", model=reason(seen), endpoint=seen.endpoint)
    lanes = [await _with_model(one, stack, report) for one in lanes]
    unready = {one.name for one in lanes}
    return [_Worker(one, where, pool, report, unready) for one in lanes]


async def _with_model(lane: LaneSettings, stack: AsyncExitStack, report: _Report) -> LaneSettings:
    """The lane, with a model server of its own if it needs one."""
    if not needs_server(lane):
        return lane
    with download_bar() as advance:
        lane = await stack.enter_async_context(with_own_server(lane, advance))
    told = f"{MODEL_NAME}, the built-in one: a toy of 135 million parameters, to see things work"
    report("model", f"model   {told}.\n        A real one: see `tokenlane probe`", model=told)
    return lane


async def _serve_all(workers: list[_Worker], stopping: asyncio.Event) -> int:
    """Run all workers; when one cannot start, stop all of them."""

    async def run(worker: _Worker) -> int:
        code = await worker.run(stopping)
        stopping.set()
        return code

    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(run(worker)) for worker in workers]
    return max((task.result() for task in running), default=OK)


async def _prepare(
    where: RedisSettings, pool: str, wanted: Policy | None, *, ours: bool
) -> tuple[str | None, str | None]:
    """Give the pool its policy, and the keys of our own server; the id of the one that seals, and what to tell.

    The policy of a server that others use too is not ours to change, once it has one.
    """
    async with connect(where.url, pool, keys=None if ours else where.keys, opens=True) as opened:
        if ours:
            await opened.announce_again(where.keys)
        there = await opened.policy()
        same = wanted is None or wanted == there.model_copy(update={"revision": 0})
        if there.revision == 0 or (ours and not same):
            revision = await opened.set_policy(wanted or there, expected=there.revision)
            return opened.keychain.key_id, f"revision {revision}, from the configuration" if wanted else None
        if same:
            return opened.keychain.key_id, None
        return opened.keychain.key_id, (
            f"revision {there.revision}, the pool's own, and not that of the configuration: see `tokenlane policy diff`"
        )


class _Worker:
    """The worker process: started, started again should it die, and drained at the end."""

    def __init__(
        self, settings: LaneSettings, redis: RedisSettings, pool: str, report: _Report, unready: set[str]
    ) -> None:
        self._settings = settings
        self._report = report
        self._unready = unready  # names of the lanes still to come, shared with their workers
        self._was_ready = False
        self._redis, self._pool = redis, pool
        self._name: str | None = None  # in the pool, of the process that runs
        command = [sys.executable, "-m", "tokenlane.config", "worker", "--json", "--supervised", "--pool", pool]
        command += ["--lane", settings.name, "--provider", settings.provider]
        command += ["--capacity", str(settings.capacity)] if settings.capacity else []
        command += [part for model in settings.models for part in ("--model", model)]
        self._command = command
        # Arguments show in process lists, and URLs may hold passwords. Keys of a file are read there, again when they
        # have changed.
        self._environment = {
            **os.environ,  # noqa: TID251 - handed on, not read
            "TOKENLANE_REDIS__URL": redis.url,
        }
        for variable in ("TOKENLANE_POOL_KEY", "TOKENLANE_REDIS__KEY_FILE"):
            self._environment.pop(variable, None)
        if redis.keys.file:
            self._environment["TOKENLANE_REDIS__KEY_FILE"] = str(redis.keys.file)
        elif redis.keys.keys:
            self._environment["TOKENLANE_POOL_KEY"] = redis.keys.reveal()
        if settings.endpoint:  # of all variables only this one wins over every other; its last word counts
            endpoint = shlex.quote(f"endpoint={settings.endpoint}")
            self._environment["TOKENLANE_LLM"] = f"{short_names().llm} {endpoint}"

    async def run(self, stopping: asyncio.Event) -> int:
        while True:
            process = await started(
                asyncio.create_subprocess_exec(
                    *self._command,
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.PIPE,
                    env=self._environment,
                    start_new_session=True,  # the terminal's Ctrl-C is for us; we drain it
                )
            )
            try:
                code = await self._serve(process, stopping)
            finally:
                if process.returncode is None:
                    process.terminate()
                await ended(process, DRAIN_S + _KILL_AFTER_S)
            if code != OK:
                await self._bury()
            if stopping.is_set():
                return OK
            if not self._was_ready:
                return code or FAILED
            note(f"tokenlane: the worker ended with code {code}; starting it again", err=True)
            await asyncio.sleep(_RESTART_AFTER_S)

    async def _bury(self) -> None:
        """Have what the dead worker ran go on at once. Where that fails its leases lapse by themselves."""
        name, self._name = self._name, None
        if name is None:
            return
        with suppress(LlmError, TimeoutError):
            async with asyncio.timeout(_BURY_S), connect(self._redis.url, self._pool) as pool:
                await pool.bury(name)

    async def _serve(self, process: asyncio.subprocess.Process, stopping: asyncio.Event) -> int:
        async with asyncio.TaskGroup() as tasks:
            reading = tasks.create_task(self._read(process))
            waiting = tasks.create_task(stopping.wait())
            await asyncio.wait((reading, waiting), return_when=asyncio.FIRST_COMPLETED)
            if not reading.done():
                process.terminate()
                await reading
            waiting.cancel()
        return await process.wait()

    async def _read(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        async for line in _lines(process.stdout):
            try:
                facts = json.loads(line)
            except ValueError:  # something of a library's
                continue
            if isinstance(facts, dict) and facts.get("event") in ("ready", "waiting"):
                self._ready(facts)

    def _ready(self, facts: dict[str, Any]) -> None:
        again, self._was_ready = self._was_ready, True
        self._name = facts["worker"]
        event = facts.pop("event")
        text = f"lane    {facts['lane']}, "
        text += f"{facts['capacity']} at once" if event == "ready" else "which waits for its back end"
        facts["problems"] = self._problems(facts)
        text += "".join(f"\nproblem {problem}" for problem in facts["problems"])
        self._unready.discard(self._settings.name)
        if not again and not self._unready:
            text += '\n\nAsk:   tokenlane chat "Name three primes." --role planner\nStop:  Ctrl-C\n'
        self._report(event, text, **facts)

    def _problems(self, facts: dict[str, Any]) -> list[str]:
        """What keeps the lane from working, where, and what to do; a line each."""
        if not facts["problems"]:
            return []
        models = f", for {', '.join(self._settings.models)}" if self._settings.models else ""
        where = f"{facts['provider']} at {facts['endpoint']}{models}"
        next_step = "Requests wait until it works; `tokenlane probe` shows what is there."
        return [
            one_line(". ".join([f"{where}: {problem}".rstrip("."), *facts["hints"], next_step]))
            for problem in facts["problems"]
        ]


async def _lines(stream: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """Lines, without those that are longer than the stream takes."""
    while True:
        try:
            line = await stream.readline()
        except ValueError:
            continue
        if not line:
            return
        yield line
