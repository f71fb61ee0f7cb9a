"""`tokenlane up`: runs a pool, and a worker for a model server, on this host until Ctrl-C."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, AsyncExitStack, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any

import typer

from tokenlane.config.cli.download_bar import download_bar
from tokenlane.config.cli.invitation import Invitation
from tokenlane.config.cli.output import note
from tokenlane.config.cli.pool_options import PoolName
from tokenlane.config.exit_codes import OK, ConfigError, UserError
from tokenlane.config.host.stop_signals import cancelled_by, stop_event
from tokenlane.config.settings.environment import short_names
from tokenlane.config.settings.load import (
    configured_model_servers,
    configured_redis,
    hook_settings,
    lane_options,
    names_provider,
    pool_name,
    pool_settings,
    read,
)
from tokenlane.config.settings.values import LaneSettings, RedisSettings
from tokenlane.routing.commands import completion
from tokenlane.routing.commands.pool_session import llm_errors_end_command
from tokenlane.routing.contract.errors import LlmError
from tokenlane.routing.decide.lanes.fallback_lane import is_fallback
from tokenlane.routing.decide.policy import Policy
from tokenlane.routing.decide.policy_file import policy_of
from tokenlane.routing.hooks.load import load_hooks
from tokenlane.routing.store.pool import connect
from tokenlane.routing.support.tasks import InternalErrors
from tokenlane.routing.watch.finding import Code
from tokenlane.routing.watch.parse_snapshot import take_snapshot
from tokenlane.worker.builtin import MODEL_NAME
from tokenlane.worker.builtin.server import needs_builtin_server, with_builtin_server
from tokenlane.worker.discovery.choose import choose_model_server, describe_choice, find_model_server
from tokenlane.worker.discovery.model_servers import ModelServer, probe_target
from tokenlane.worker.discovery.targets import Target, search_targets
from tokenlane.worker.supervision.embedded_redis import embedded_redis
from tokenlane.worker.supervision.worker_process import Report, WorkerProcess
from tokenlane.worker.supervision.worker_process import report as report_step

_LOOK_AGAIN_S = 10.0
_STEADY_CHECKS = 5
"""How often a newly found model server must answer in a row before `up` switches to it."""
_STEADY_EVERY_S = 1.0
_AWAY_S = 60.0
"""How long the model server that replaced the built-in model may be away before the built-in model serves again."""
_SWITCHES = "For a real one see `tokenlane probe`; `up` switches to it once it runs."
_STAYS = "`up` stays with it, as configured. For a real one see `tokenlane probe`, then name another --provider."


def up(
    redis: Annotated[str | None, typer.Option(help="Use this Redis instead of an embedded server.")] = None,
    pool: PoolName = None,
    lane: Annotated[str | None, typer.Option(help="The lane's name.", autocompletion=completion.lanes)] = None,
    provider: Annotated[
        str | None,
        typer.Option(
            help="The kind of model server. Default: as configured in llm.toml, otherwise the first server found, or "
            "the built-in toy model if there is none.",
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
    listen: Annotated[
        str | None, typer.Option(help="Let other hosts connect, with a password, at HOST or HOST:PORT.")
    ] = None,
    private: Annotated[bool, typer.Option(help="Hide this pool from this user's other commands.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Report each step as one line of JSON.")] = False,
    supervised: Annotated[bool, typer.Option(hidden=True, help="Stop when standard input ends.")] = False,
) -> None:
    """Run a pool and a worker on this host. Ctrl-C drains and stops them."""
    other = configured_redis(redis, only_command_line=private)
    if listen is not None and (other is not None or private):
        which = "--private" if other is None else f"--redis, or the setting that names {other.safe_url}"
        raise ConfigError(f"--listen is for the embedded server: leave out {which}.")
    load_hooks(hook_settings())  # an error in them ends the command, and not each of its workers
    models = tuple(model or ())
    lanes_with = partial(pool_settings, lane=lane, models=models, capacity=capacity)
    plan = _Plan(lanes_with(provider=provider, endpoint=endpoint), lanes_with)
    if not names_provider(lane_options(lane=lane, provider=provider, endpoint=endpoint, models=models)):
        server = choose_model_server(plan.lanes[0], search_targets(configured_model_servers()))
        plan = plan.served_by(server) if server else replace(plan, looks=plan.lanes[0].endpoint is None)
    settings = read()
    policy = policy_of(settings) if settings.document.has_policy else None
    redis_server = embedded_redis(private=private, listen=listen) if other is None else nullcontext((other, None))
    name, report = pool_name(pool), partial(report_step, as_json=as_json)
    start_pool = partial(_start_pool, policy=policy, ours=other is None, pool=name, report=report)
    keep_serving = partial(_keep_serving, plan, pool=name, report=report)
    with llm_errors_end_command():
        raise typer.Exit(asyncio.run(_up(redis_server, start_pool, keep_serving, supervised)))


@dataclass(frozen=True)
class _Plan:
    """The lanes to serve.

    Args:
        lanes_with: returns the lanes for a provider and an endpoint.
        server: the model server that `up` found; None if the settings name one.
        looks: whether to look for a model server while the built-in model serves.
        avoids: endpoints that are not looked at.
        toy: the plan with the built-in model that this plan replaced.
    """

    lanes: list[LaneSettings]
    lanes_with: Callable[..., list[LaneSettings]]
    server: ModelServer | None = None
    looks: bool = False
    avoids: tuple[str, ...] = ()
    toy: _Plan | None = None

    def served_by(self, server: ModelServer) -> _Plan:
        """The plan to serve this model server."""
        lanes = self.lanes_with(provider=server.provider, endpoint=server.lane.endpoint)
        return _Plan(lanes, self.lanes_with, server, toy=self if self.looks else None)

    def replacement(self, redis: RedisSettings, pool: str) -> Coroutine[Any, Any, _Plan] | None:
        """Waits until another plan should replace this one, and returns that plan; None if none ever does."""
        if self.looks:
            return _wait_for_model_server(self)
        if self.server is None or self.toy is None:
            return None
        return _wait_until_away(self.server, self.toy, partial(_any_lane_works, redis, pool))


async def _up(
    redis_server: AbstractAsyncContextManager[tuple[RedisSettings, RedisSettings | None]],
    start_pool: Callable[[RedisSettings, RedisSettings | None], Awaitable[None]],
    keep_serving: Callable[[RedisSettings], Awaitable[int]],
    supervised: bool,
) -> int:
    code = OK
    with stop_event(or_when_input_ends=supervised) as stopping:
        async with AsyncExitStack() as stack:
            async with cancelled_by(stopping):
                redis, public = await stack.enter_async_context(redis_server)
                await start_pool(redis, public)
                code = await keep_serving(redis)
    return code


async def _keep_serving(plan: _Plan, redis: RedisSettings, *, pool: str, report: Report) -> int:
    """Serve the plan. If a model server appears while the built-in model serves, switch to it, and back if it stays
    away."""
    while True:
        code, replacement = await _serve(plan, redis, pool, report)
        if replacement is not None:
            plan = replacement
        elif code != OK and plan.toy is not None and plan.server is not None:  # the model server cannot be served
            plan = replace(plan.toy, avoids=(*plan.toy.avoids, plan.server.endpoint))
        else:
            return code


async def _start_pool(
    redis: RedisSettings,
    public: RedisSettings | None,
    *,
    policy: Policy | None,
    ours: bool,
    pool: str,
    report: Report,
) -> None:
    """Give the pool its keys and its policy, and report its address."""
    key_id, policy_note = await _prepare(redis, pool, policy, ours=ours)
    sealed = f", sealed with key {key_id}" if key_id else ""
    # The URL of a server that listens, or that we did not start, may hold a password, and this report may end up in a
    # log.
    url = redis.url if ours and public is None else redis.safe_url
    report("pool", f"pool    {pool} at {redis.safe_url}{sealed}", redis=url, pool=pool, key=key_id)
    if policy_note:
        report("policy", f"policy  {policy_note}", policy=policy_note)
    if public is not None:
        text = f"listen  {public.safe_url}. To connect another host: tokenlane invite"
        if sys.stdout.isatty():
            text = f"\n{Invitation(public.url, pool, public.keys).text()}\nTo print this again: tokenlane invite\n"
        report("listen", text, redis=public.safe_url)


async def _serve(plan: _Plan, redis: RedisSettings, pool: str, report: Report) -> tuple[int, _Plan | None]:
    """Serve the lanes. Returns the exit code, and the plan that replaces this one if there is one."""
    async with AsyncExitStack() as stack:
        if plan.server is not None:
            chosen = describe_choice(plan.server)
            report("model", f"model   {chosen}", model=chosen, endpoint=plan.server.endpoint)
        hint = _SWITCHES if plan.looks else _STAYS
        lanes = [await _with_model(lane, stack, report, hint) for lane in plan.lanes]
        unready, llm = {lane.name for lane in lanes}, short_names().get("LLM", "")
        workers = [WorkerProcess(lane, redis, pool, report, unready, llm) for lane in lanes]
        return await _serve_all(workers, plan.replacement(redis, pool))


async def _with_model(lane: LaneSettings, stack: AsyncExitStack, report: Report, hint: str) -> LaneSettings:
    """The lane, with the built-in model's server running if it needs one."""
    if not needs_builtin_server(lane):
        return lane
    with download_bar(stderr=True) as show:
        lane = await stack.enter_async_context(with_builtin_server(lane, partial(show, f"fetching {MODEL_NAME}")))
    model = f"{MODEL_NAME}, a built-in toy of 135 million parameters"
    report("model", f"model   {model}.\n        {hint}", model=model)
    return lane


async def _serve_all(
    workers: list[WorkerProcess], replacement: Coroutine[Any, Any, _Plan] | None
) -> tuple[int, _Plan | None]:
    """Run all workers. When one cannot start, or another plan should replace this one, stop them all."""
    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(worker.run()) for worker in workers]
        waiting = [tasks.create_task(replacement)] if replacement is not None else []
        await asyncio.wait([*running, *waiting], return_when=asyncio.FIRST_COMPLETED)
        for task in (*running, *waiting):
            task.cancel()
    code = max((task.result() for task in running if not task.cancelled()), default=OK)
    return code, next((task.result() for task in waiting if not task.cancelled()), None)


async def _wait_for_model_server(plan: _Plan) -> _Plan:
    """Wait for a model server that can chat and answers steadily. Returns the plan to serve it."""
    errors = InternalErrors()
    while True:
        await asyncio.sleep(_LOOK_AGAIN_S)
        try:
            server = await find_model_server(plan.lanes[0], search_targets(configured_model_servers()), plan.avoids)
            if server is not None and await _answers_steadily(server):
                return plan.served_by(server)
        except UserError:  # llm.toml is being edited
            continue
        except Exception as error:
            errors.record("search for a model server", error)


async def _answers_steadily(server: ModelServer) -> bool:
    for _ in range(_STEADY_CHECKS):
        await asyncio.sleep(_STEADY_EVERY_S)
        if (await probe_target(Target(server.lane, server.provider))).problem is not None:
            return False
    return True


async def _wait_until_away(server: ModelServer, toy: _Plan, any_lane_works: Callable[[], Awaitable[bool]]) -> _Plan:
    """Wait until the model server has not answered for `_AWAY_S` and no lane works. Returns the plan with the
    built-in model."""
    clock, errors = asyncio.get_running_loop().time, InternalErrors()
    answered_at = clock()
    while True:
        await asyncio.sleep(_LOOK_AGAIN_S)
        try:
            problem = (await probe_target(Target(server.lane, server.provider))).problem
            if problem is None or problem.code != Code.MODEL_SERVER:
                answered_at = clock()
            elif clock() >= answered_at + _AWAY_S and not await any_lane_works():
                break
        except LlmError:  # the pool does not answer
            continue
        except Exception as error:
            errors.record("check of the model server", error)
    note(f"tokenlane: {server.endpoint} has not answered for {_AWAY_S:g} s; serving the built-in model again", err=True)
    return toy


async def _any_lane_works(redis: RedisSettings, pool: str) -> bool:
    async with connect(redis.url, pool) as opened:
        lanes = (await take_snapshot(opened)).lanes
    return any(lane.state.accepts_work and not is_fallback(lane.name) for lane in lanes)


async def _prepare(
    redis: RedisSettings, pool: str, wanted: Policy | None, *, ours: bool
) -> tuple[str | None, str | None]:
    """Give the pool its policy and, on the embedded server, its keys. Returns the id of the key that seals requests,
    and a note about the policy.

    A policy on a server that we did not start is written only if there is none yet.
    """
    async with connect(redis.url, pool, keys=None if ours else redis.keys, unseals=True) as opened:
        if ours:
            await opened.key_agreement.announce_again(redis.keys)
        key_id = opened.keychain.key_id
        current = await opened.policies.read()
        same = wanted is None or wanted == current.model_copy(update={"revision": 0})
        if current.revision == 0 or (ours and not same):
            revision = await opened.policies.write(wanted or current, expected=current.revision)
            return key_id, f"revision {revision}, from the configuration" if wanted else None
        kept = f"revision {current.revision} of the pool, which differs from the configuration: `tokenlane policy diff`"
        return key_id, None if same else kept
