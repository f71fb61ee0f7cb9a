"""`tokenlane worker`: serves one lane, or, with `--check`, reports whether it could."""

from __future__ import annotations

import asyncio
import logging
import shlex
import sys
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from functools import partial
from typing import Annotated

import typer

from tokenlane.config.cli.download_bar import download_bar
from tokenlane.config.cli.output import note
from tokenlane.config.cli.plain_text import PlainFormatter
from tokenlane.config.cli.pool_options import PoolName, RedisUrl
from tokenlane.config.cli.sentences import counted
from tokenlane.config.exit_codes import FAILED, OK, ConfigError
from tokenlane.config.host.stop_signals import cancelled_by, stop_event
from tokenlane.config.settings.environment import debugging
from tokenlane.config.settings.load import (
    cache_settings,
    configured_model_servers,
    find_pool,
    lane_options,
    lane_settings,
    names_provider,
    pool_name,
    read,
)
from tokenlane.routing.commands import completion
from tokenlane.routing.commands.pool_session import CONFIGURATION_ERRORS, error_for_user, llm_errors_end_command
from tokenlane.routing.contract.errors import LlmError
from tokenlane.routing.store.pool import connect
from tokenlane.routing.watch.finding import Code, Finding
from tokenlane.worker.assembly import open_lane
from tokenlane.worker.builtin import MODEL_NAME
from tokenlane.worker.builtin.server import is_installed, needs_server, with_own_server
from tokenlane.worker.discovery.choose import choose, reason
from tokenlane.worker.discovery.targets import search_targets
from tokenlane.worker.lane.lane import Lane
from tokenlane.worker.run_and_drain import DRAIN_S, run_worker
from tokenlane.worker.startup.make_report import dry_run, report_on_lane
from tokenlane.worker.startup.startup_report import Destination, StartupReport


def worker(
    redis: RedisUrl = None,
    lane: Annotated[
        str | None, typer.Option(help="The lane's name. Default: HOST-PROVIDER.", autocompletion=completion.lanes)
    ] = None,
    provider: Annotated[
        str | None,
        typer.Option(
            help="The kind of model server. Default: the first found, else builtin.",
            autocompletion=completion.providers,
        ),
    ] = None,
    endpoint: Annotated[str | None, typer.Option(help="The model server's URL; not needed for builtin.")] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(help="A model to serve; may be repeated. Default: all.", autocompletion=completion.models),
    ] = None,
    capacity: Annotated[
        int | None, typer.Option(help="Requests to serve at once. Default: by provider.", min=1)
    ] = None,
    drain: Annotated[float, typer.Option(help="Seconds that requests may still run after a stop.", min=0)] = DRAIN_S,
    pool: PoolName = None,
    check: Annotated[bool, typer.Option(help="Check model server and pool only. Exit code 1 on problems.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Report in JSON.")] = False,
    supervised: Annotated[bool, typer.Option(hidden=True, help="Stop when standard input ends.")] = False,
) -> None:
    """Serve one lane: one model server, usually one GPU. Ctrl-C drains it, a second Ctrl-C stops it at once."""
    own = partial(lane_settings, lane=lane, models=model or (), capacity=capacity)
    settings, seen, only_toy = own(provider=provider, endpoint=endpoint), None, False
    if not names_provider(lane_options(lane=lane, provider=provider, endpoint=endpoint, models=model or ())):
        seen = choose(settings, search_targets(configured_model_servers()))
        only_toy = seen is None
    if only_toy and not is_installed():
        raise ConfigError("no model server was found: name it with --provider and --endpoint")
    if seen is not None:
        settings = own(provider=seen.provider, endpoint=seen.lane.endpoint)
        if not as_json:
            typer.echo(f"found     {reason(seen)}")
    if settings.capacity is None:
        source = f"auto for {settings.provider}"
    else:
        source = f"from {read(lane_options(capacity=capacity)).lane(settings.name)['capacity'].source}"
    transcripts = debugging("llm")
    _log(logging.INFO if transcripts else logging.WARNING)
    where = find_pool(redis)
    to = Destination(settings, where, pool_name(pool), source, _options(redis and where.safe_url, pool))
    report = partial(_report, as_json=as_json)
    working = partial(_work, drain_s=drain, transcripts=transcripts, as_json=as_json)
    serving = partial(_check, only_toy=only_toy) if check else working
    work = _serve(to, partial(serving, report=report), supervised=supervised, starts=not check)
    with llm_errors_end_command(), asyncio.Runner(loop_factory=_loop_factory()) as runner:
        raise typer.Exit(runner.run(work))


def _log(level: int) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(PlainFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(handlers=[handler])
    logging.getLogger("tokenlane").setLevel(level)
    logging.getLogger("arq").setLevel(logging.ERROR)  # its warnings are about outdated attempts


def _report(event: str, startup: StartupReport, *, as_json: bool, **facts: object) -> None:
    note(startup.json_line(event, **facts) if as_json else startup.text())


def _options(redis: str | None, pool: str | None) -> str:
    """The options that named the pool, for other commands. Those read settings and files themselves."""
    given = {"--redis": redis, "--pool": pool}
    return "".join(f" {option} {shlex.quote(value)}" for option, value in given.items() if value)


async def _check(to: Destination, *, stopping: asyncio.Event, report: Callable[..., None], only_toy: bool) -> int:
    startup = await dry_run(to)
    if only_toy:
        observed = "no model server was found, so this worker would serve only the built-in toy model"
        advice = "name a model server with --provider and --endpoint"
        remark = Finding(Code.ONLY_TOY, "warn", observed, advice, to.settings.name)
        startup = replace(startup, findings=(*startup.findings, remark))
    report("checked", startup)
    return FAILED if startup.problems else OK


async def _work(
    to: Destination,
    *,
    stopping: asyncio.Event,
    report: Callable[..., None],
    drain_s: float,
    transcripts: bool,
    as_json: bool,
) -> int:
    """Serve the lane. `as_json`: print nothing but reports."""
    is_ready = False

    async def ready(lane: Lane) -> None:
        nonlocal is_ready
        is_ready = True
        startup = await report_on_lane(lane, to)
        report("waiting" if startup.waits else "ready", startup, worker=lane.worker)
        if not as_json and not startup.waits and not stopping.is_set():
            note(f"serves    until Ctrl-C; running requests then have {drain_s:g} s to finish")

    def draining(running: int) -> None:
        if not as_json:
            note(f"draining  {counted(running, 'request runs', 'requests run')}; Ctrl-C again stops at once")

    try:
        lane = open_lane(to.settings, to.redis, pool_name=to.pool, cache=cache_settings(), transcripts=transcripts)
        return await run_worker(lane, fallback=True, drain_s=drain_s, ready=ready, draining=draining, stopping=stopping)
    except CONFIGURATION_ERRORS:
        raise
    except LlmError as error:
        if is_ready:
            raise
        endpoint = "its endpoint"
        with suppress(LlmError, ConfigError):  # the first error is the one to report
            async with cancelled_by(stopping):
                startup = await dry_run(to)
                first = Finding(Code.MODEL_SERVER, "fail", error.message, subject=to.settings.name)
                report("failed", startup if startup.problems else replace(startup, findings=(first, *startup.findings)))
                endpoint = startup.probe.endpoint
        raise error_for_user(error, f"The lane cannot be served from {endpoint}. {error}") from error


async def _serve(
    to: Destination, serving: Callable[..., Coroutine[object, object, int]], *, supervised: bool, starts: bool
) -> int:
    """Serve the lane. `starts`: with a model server of its own, if it needs one."""
    async with AsyncExitStack() as stack:
        stopping = stack.enter_context(stop_event(or_when_input_ends=supervised))
        async with cancelled_by(stopping):
            if starts and needs_server(to.settings):
                async with connect(to.redis.url, to.pool, keys=to.redis.keys, unseals=True):
                    pass  # no model is fetched for a pool that does not answer, or has other keys
                with download_bar(stderr=True) as show:
                    progress = partial(show, f"fetching {MODEL_NAME}")
                    served = await stack.enter_async_context(with_own_server(to.settings, progress))
                    to = replace(to, settings=served)
        if stopping.is_set():
            return OK
        return await serving(to, stopping=stopping)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ModuleNotFoundError:
        return None
    return uvloop.new_event_loop
