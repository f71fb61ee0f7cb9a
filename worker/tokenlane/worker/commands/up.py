"""`tokenlane up`: a pool, a model server and a worker on this machine, until Ctrl-C."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Collection, Coroutine
from contextlib import AbstractAsyncContextManager, AsyncExitStack, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any

import typer

from tokenlane.config.cli.download_bar import download_bar
from tokenlane.config.cli.invitation import Invitation
from tokenlane.config.cli.pool_options import PoolName
from tokenlane.config.exit_codes import OK, ConfigError, UserError
from tokenlane.config.host.stop_signals import cancelled_by, stop_event
from tokenlane.config.settings.environment import short_names
from tokenlane.config.settings.load import (
    configured_back_ends,
    configured_redis,
    lane_options,
    names_provider,
    pool_name,
    pool_settings,
    read,
)
from tokenlane.config.settings.values import LaneSettings, RedisSettings
from tokenlane.routing.commands import completion
from tokenlane.routing.commands.pool_session import as_user_error
from tokenlane.routing.contract.errors import LlmError
from tokenlane.routing.decide.policy import Policy
from tokenlane.routing.decide.policy_file import policy_of
from tokenlane.routing.store.pool import connect
from tokenlane.routing.support.tasks import InternalErrors
from tokenlane.worker.builtin import MODEL_NAME
from tokenlane.worker.builtin.server import needs_server, with_own_server
from tokenlane.worker.discovery.choose import choose, find, reason
from tokenlane.worker.discovery.model_servers import ModelServer
from tokenlane.worker.discovery.targets import search_targets
from tokenlane.worker.supervision.embedded_redis import EmbeddedRedis, embedded_redis
from tokenlane.worker.supervision.worker_process import KeptWorker, Report

_LOOK_AGAIN_S = 10.0


def up(
    redis: Annotated[str | None, typer.Option(help="Use this Redis instead of an embedded server.")] = None,
    pool: PoolName = None,
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
    plan = _Plan(own(provider=provider, endpoint=endpoint), own)
    if not names_provider(lane_options(lane=lane, provider=provider, endpoint=endpoint, models=models)):
        seen = choose(plan.lanes[0], search_targets(configured_back_ends()))
        plan = replace(plan, chooses=plan.lanes[0].endpoint is None) if seen is None else plan.served_by(seen)
    settings = read()
    policy = policy_of(settings) if settings.document.has_policy else None
    try:
        server = nullcontext(other) if other is not None else embedded_redis(private=private, listen=listen)
        code = asyncio.run(_up(plan, policy, server, pool_name(pool), Report(as_json), supervised))
    except LlmError as error:
        raise as_user_error(error) from error
    raise typer.Exit(code)


@dataclass(frozen=True)
class _Plan:
    """What is to be served. `own`: the lanes for a provider and an endpoint. `seen`: the model server that was found,
    where nothing says which. `chooses`: nothing does, none was found, and one may come, but at `avoids`."""

    lanes: list[LaneSettings]
    own: Callable[..., list[LaneSettings]]
    seen: ModelServer | None = None
    chooses: bool = False
    avoids: tuple[str, ...] = ()

    def served_by(self, seen: ModelServer) -> _Plan:
        """The same with what was found."""
        return _Plan(self.own(provider=seen.provider, endpoint=seen.lane.endpoint), self.own, seen)


async def _up(
    plan: _Plan,
    policy: Policy | None,
    server: AbstractAsyncContextManager[EmbeddedRedis | RedisSettings],
    pool: str,
    report: Report,
    supervised: bool,
) -> int:
    code = OK
    with stop_event(or_when_input_ends=supervised) as stopping:
        async with AsyncExitStack() as stack:
            async with cancelled_by(stopping):
                where = await _open(policy, server, pool, report, stack)
                code = await _keep_serving(plan, where, pool, report)
    return code


async def _keep_serving(plan: _Plan, where: RedisSettings, pool: str, report: Report) -> int:
    """Serve by the plan; while that is by the toy, and a real model server comes, by that one from then on."""
    toy: _Plan | None = None
    while True:
        code, better = await _serve(plan, where, pool, report)
        if better is not None:
            toy, plan = replace(plan, avoids=(*plan.avoids, better.endpoint)), plan.served_by(better)
        elif code != OK and toy is not None:  # what was found cannot be served
            plan, toy = toy, None
        else:
            return code


async def _open(
    policy: Policy | None,
    server: AbstractAsyncContextManager[EmbeddedRedis | RedisSettings],
    pool: str,
    report: Report,
    stack: AsyncExitStack,
) -> RedisSettings:
    """Start the pool."""
    opened = await stack.enter_async_context(server)
    where = opened.here if isinstance(opened, EmbeddedRedis) else opened
    key_id, told = await _prepare(where, pool, policy, ours=isinstance(opened, EmbeddedRedis))
    sealed = f", sealed with key {key_id}" if key_id else ""
    public = opened.public if isinstance(opened, EmbeddedRedis) else None
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
    return where


async def _serve(plan: _Plan, where: RedisSettings, pool: str, report: Report) -> tuple[int, ModelServer | None]:
    """Serve the lanes; the exit code, or the model server that has come and is to serve instead of the toy."""
    async with AsyncExitStack() as stack:
        if plan.seen is not None:
            report("model", f"model   {reason(plan.seen)}", model=reason(plan.seen), endpoint=plan.seen.endpoint)
        lanes = [await _with_model(one, stack, report) for one in plan.lanes]
        unready, llm = {one.name for one in lanes}, short_names().get("LLM", "")
        workers = [KeptWorker(one, where, pool, report, unready, llm) for one in lanes]
        return await _serve_all(workers, partial(_better, plan.lanes[0], plan.avoids) if plan.chooses else None)


async def _with_model(lane: LaneSettings, stack: AsyncExitStack, report: Report) -> LaneSettings:
    """The lane, with a model server of its own if it needs one."""
    if not needs_server(lane):
        return lane
    with download_bar(stderr=True) as show:
        lane = await stack.enter_async_context(with_own_server(lane, partial(show, f"fetching {MODEL_NAME}")))
    told = f"{MODEL_NAME}, the built-in one: a toy of 135 million parameters, to see things work"
    report(
        "model", f"model   {told}.\n        A real one: see `tokenlane probe`; once it is there, it serves", model=told
    )
    return lane


async def _serve_all(
    workers: list[KeptWorker], better: Callable[[], Coroutine[Any, Any, ModelServer]] | None
) -> tuple[int, ModelServer | None]:
    """Run all workers; when one cannot start, or something better has come, stop all of them."""
    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(worker.run()) for worker in workers]
        looking = [tasks.create_task(better())] if better is not None else []
        await asyncio.wait([*running, *looking], return_when=asyncio.FIRST_COMPLETED)
        for task in (*running, *looking):
            task.cancel()
    code = max((task.result() for task in running if not task.cancelled()), default=OK)
    return code, next((task.result() for task in looking if not task.cancelled()), None)


async def _better(toy: LaneSettings, avoids: Collection[str]) -> ModelServer:
    """The first model server with a model that can chat that comes while the toy serves."""
    errors = InternalErrors()
    while True:
        await asyncio.sleep(_LOOK_AGAIN_S)
        try:
            seen = await find(toy, search_targets(configured_back_ends()), avoids)
        except UserError:  # llm.toml is being edited
            continue
        except Exception as error:
            errors.note("look for a model server", error)
            continue
        if seen is not None:
            return seen


async def _prepare(
    where: RedisSettings, pool: str, wanted: Policy | None, *, ours: bool
) -> tuple[str | None, str | None]:
    """Give the pool its policy, and the keys of our own server; the id of the one that seals, and what to tell.

    The policy of a server that others use too is not ours to change, once it has one.
    """
    async with connect(where.url, pool, keys=None if ours else where.keys, opens=True) as opened:
        if ours:
            await opened.sealing.announce_again(where.keys)
        there = await opened.policies.read()
        same = wanted is None or wanted == there.model_copy(update={"revision": 0})
        if there.revision == 0 or (ours and not same):
            revision = await opened.policies.write(wanted or there, expected=there.revision)
            return opened.keychain.key_id, f"revision {revision}, from the configuration" if wanted else None
        if same:
            return opened.keychain.key_id, None
        return opened.keychain.key_id, (
            f"revision {there.revision}, the pool's own, and not that of the configuration: see `tokenlane policy diff`"
        )
