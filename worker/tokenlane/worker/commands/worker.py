"""`tokenlane worker`: serves one lane, or, with `--check`, reports whether it could."""

from __future__ import annotations

import asyncio
import logging
import shlex
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from functools import partial
from typing import Annotated

import typer

from tokenlane.config.cli.download_bar import download_bar
from tokenlane.config.cli.log_lines import start_logging
from tokenlane.config.cli.output import note
from tokenlane.config.cli.pool_options import PoolName, RedisUrl
from tokenlane.config.cli.sentences import counted
from tokenlane.config.exit_codes import FAILED, OK, ConfigError
from tokenlane.config.host.stop_signals import cancelled_by, stop_event
from tokenlane.config.settings.environment import debugging
from tokenlane.config.settings.load import (
    cache_settings,
    configured_model_servers,
    find_pool,
    hook_settings,
    lane_options,
    lane_settings,
    log_settings,
    names_provider,
    plugin_settings,
    pool_name,
    read,
    telemetry_settings,
)
from tokenlane.routing.commands import completion
from tokenlane.routing.commands.pool_session import CONFIGURATION_ERRORS, error_for_user, llm_errors_end_command
from tokenlane.routing.contract.errors import LlmError
from tokenlane.routing.hooks.functions import Hooks
from tokenlane.routing.hooks.load import load_hooks
from tokenlane.routing.store.pool import connect
from tokenlane.routing.watch.finding import Code, Finding
from tokenlane.worker.assembly import open_lane
from tokenlane.worker.builtin import MODEL_NAME
from tokenlane.worker.builtin.server import is_installed, needs_builtin_server, with_builtin_server
from tokenlane.worker.discovery.choose import choose_model_server, describe_choice
from tokenlane.worker.discovery.targets import search_targets
from tokenlane.worker.hooks.prompt_plugins import PromptPlugins, open_plugins
from tokenlane.worker.lane.lane import Lane
from tokenlane.worker.metrics_server import PORT, WorkerHealth, serving_metrics
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
            help="The kind of model server. Default: as configured in llm.toml, otherwise the first server found, or "
            "the built-in toy model if there is none and the extra `builtin` is installed.",
            autocompletion=completion.providers,
        ),
    ] = None,
    endpoint: Annotated[str | None, typer.Option(help="The model server's URL; not needed for builtin.")] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(help="A model to serve; may be repeated. Default: all.", autocompletion=completion.models),
    ] = None,
    capacity: Annotated[
        int | None, typer.Option(help="How many requests to serve at once. The default depends on the provider.", min=1)
    ] = None,
    metrics: Annotated[
        str | None,
        typer.Option(
            metavar="HOST[:PORT]",
            help=f"Where to serve metrics and health. Default: nowhere; port {PORT}.",
        ),
    ] = None,
    drain: Annotated[
        float, typer.Option(help="How many seconds running requests may take to finish after a stop signal.", min=0)
    ] = DRAIN_S,
    pool: PoolName = None,
    check: Annotated[
        bool,
        typer.Option(help="Check the model server and the pool, but send no chat. Exit code 1 if there are problems."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Report in JSON.")] = False,
    supervised: Annotated[bool, typer.Option(hidden=True, help="Stop when standard input ends.")] = False,
) -> None:
    """Serve one lane: one model server, usually one GPU. Ctrl-C drains it, a second Ctrl-C stops it at once."""
    settings_for = partial(lane_settings, lane=lane, models=model or (), capacity=capacity, metrics=metrics)
    hooks, plugins = load_hooks(hook_settings()), open_plugins(plugin_settings())
    settings, discovered, only_toy = settings_for(provider=provider, endpoint=endpoint), None, False
    if not names_provider(lane_options(lane=lane, provider=provider, endpoint=endpoint, models=model or ())):
        discovered = choose_model_server(settings, search_targets(configured_model_servers()))
        only_toy = discovered is None
    if only_toy and not is_installed():
        raise ConfigError(
            "No model server was found on this host. Start one, or name one with --provider and --endpoint."
        )
    if discovered is not None:
        settings = settings_for(provider=discovered.provider, endpoint=discovered.lane.endpoint)
        if not as_json:
            typer.echo(f"found     {describe_choice(discovered)}")
    if settings.capacity is None:
        source = f"auto for {settings.provider}"
    else:
        source = f"from {read(lane_options(capacity=capacity)).lane(settings.name)['capacity'].source}"
    transcripts = debugging("llm")
    start_logging(log_settings(), logging.WARNING if supervised and not transcripts else logging.INFO)
    where = find_pool(redis)
    to = Destination(settings, where, pool_name(pool), source, _options(redis and where.safe_url, pool))
    report = partial(_report, as_json=as_json)
    working = partial(_work, drain_s=drain, transcripts=transcripts, hooks=hooks, plugins=plugins, as_json=as_json)
    serving = partial(_check, only_toy=only_toy) if check else working
    work = _serve(to, partial(serving, report=report), supervised=supervised, starts=not check)
    with llm_errors_end_command(), asyncio.Runner(loop_factory=_loop_factory()) as runner:
        raise typer.Exit(runner.run(work))


def _report(event: str, startup: StartupReport, *, as_json: bool, **facts: object) -> None:
    note(startup.json_line(event, **facts) if as_json else startup.text(checks_only=event == "checked"))


def _options(redis: str | None, pool: str | None) -> str:
    """The options by which other commands find this pool. Other commands read the settings and files themselves."""
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
    hooks: Hooks,
    plugins: PromptPlugins,
    as_json: bool,
) -> int:
    """Serve the lane and its metrics. With `as_json`, print only the reports."""
    health, url = WorkerHealth(), ""

    async def ready(lane: Lane) -> None:
        health.lane = lane
        startup = await report_on_lane(lane, to)
        pages = {"metrics": url} if url else {}
        report("waiting" if startup.waits else "ready", startup, worker=lane.worker, **pages)
        if url and not as_json:
            note(f"metrics   {url}/metrics")
        if not as_json and not startup.waits and not stopping.is_set():
            note(f"serves    until Ctrl-C; running requests then have {drain_s:g} s to finish")

    def draining(running: int) -> None:
        if not as_json:
            note(f"draining  {counted(running, 'request runs', 'requests run')}; Ctrl-C again stops at once")

    try:
        lane = open_lane(
            to.settings,
            to.redis,
            pool_name=to.pool,
            cache=cache_settings(),
            transcripts=transcripts,
            token_spans=telemetry_settings().tokens,
            hooks=hooks,
            plugins=plugins,
            internal_errors=health.internal_errors,
        )
        async with serving_metrics(health, to.settings.metrics, to.pool) as url:
            code = await run_worker(
                lane, fallback=True, drain_s=drain_s, on_ready=ready, on_draining=draining, stopping=stopping
            )
        if health.lane and not as_json:
            note("stopped   no request runs on this worker any more")
        return code
    except CONFIGURATION_ERRORS:
        raise
    except LlmError as error:
        if health.lane:
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
    """Call `serving` until it ends or a signal stops it. With `starts`, first start the built-in model's server if the
    lane needs it."""
    async with AsyncExitStack() as stack:
        stopping = stack.enter_context(stop_event(or_when_input_ends=supervised))
        async with cancelled_by(stopping):
            if starts and needs_builtin_server(to.settings):
                async with connect(to.redis.url, to.pool, keys=to.redis.keys, unseals=True):
                    pass  # fail before the download if the pool does not answer or has other keys
                with download_bar(stderr=True) as show:
                    progress = partial(show, f"fetching {MODEL_NAME}")
                    served = await stack.enter_async_context(with_builtin_server(to.settings, progress))
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
