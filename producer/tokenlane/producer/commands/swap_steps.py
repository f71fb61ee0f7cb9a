"""Swaps the model that serves a role or a lane: the new model must answer before the policy's routes change.

Until then nothing has changed, and the old model serves. Answers that run when the routes change end on the old model.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Literal

from tokenlane.config.cli.sentences import age
from tokenlane.producer.client import Client
from tokenlane.producer.compose import compose
from tokenlane.producer.link.link import Composed, open_request
from tokenlane.producer.link.open_request import OpenRequest
from tokenlane.producer.models import Models
from tokenlane.routing.contract.envelope import Needs
from tokenlane.routing.contract.errors import DeadlineExceeded, LlmError, ProviderDown
from tokenlane.routing.contract.requests import ChatOptions
from tokenlane.routing.contract.results import ModelInfo
from tokenlane.routing.contract.wire import Value, new_id
from tokenlane.routing.decide.candidates import candidates, may_use, pullers, served_name
from tokenlane.routing.decide.lanes.offer import LaneView
from tokenlane.routing.decide.no_candidate import no_lane
from tokenlane.routing.decide.policy import Candidate, Policy, PolicyChanged
from tokenlane.routing.decide.policy_file import route_entry
from tokenlane.routing.decide.swaps import (
    Routes,
    find_target,
    route_of,
    routes_before,
    swapped_routes,
    with_routes,
)
from tokenlane.routing.store.pool import Pool
from tokenlane.routing.support.tasks import background
from tokenlane.routing.watch.parse_snapshot import take_snapshot

from .client_session import explaining_wait
from .models import kv_text

_QUESTION = "Reply with OK."
_ANSWER_TOKENS = 8
_CHECK_LANE_EVERY_S = 1.0
_LEAST_MOVE_S = 10.0
"""How long writing the policy may take, however late it is: its revision decides whether the swap has happened."""


class SwapStep(Value):
    """A completed step of a swap.

    - `pulled`, `loaded`, `answered`, `unloaded`: what happened with `model` on `lane`, and how long it took.
      If the lane keeps KV caches, `kv_tokens_kept` and `kv_lost_because` of `loaded` say what became of the model's.
    - `kept`: `model` was not unloaded from `lane`, because the route of `role` leads to it.
    - `moved`: the route of `role` was `before` and is `route` since policy `revision`.
    - `unchanged`: the route of `role` already was `route`.
    """

    step: Literal["pulled", "loaded", "answered", "moved", "unchanged", "unloaded", "kept"]
    lane: str | None = None
    model: str | None = None
    took_ms: int | None = None
    kv_tokens_kept: int | None = None
    kv_lost_because: str = ""
    role: str | None = None
    before: tuple[Candidate, ...] = ()
    route: tuple[Candidate, ...] = ()
    revision: int | None = None

    def __str__(self) -> str:
        place, route = f"{self.model} on lane {self.lane}", _words(self.route)
        match self.step:
            case "moved":
                text = f"role {self.role} from {_words(self.before)} to {route}, policy revision {self.revision}"
            case "unchanged":
                text = f"role {self.role}, whose route already is {route}"
            case "kept":
                text = f"{place}, because the route of role {self.role} leads to it"
            case _:
                text = f"{place} after {age(self.took_ms)}"
        if self.kv_tokens_kept is not None:
            text += f", {kv_text(self.kv_tokens_kept, self.kv_lost_because)}"
        return f"{self.step:<9} {text}"


@dataclass(frozen=True)
class Swap:
    """A swap of the model of a role or a lane.

    Args:
        name: the role or the lane.
        model: the model to swap to; None to go back to the routes before the last swap.
        report: called with each completed step.
        explain: called with what the swap waits for, whenever that changes.
        timeout_s: how long the new model may take to answer, and the old one to be unloaded.
        unloads_old: whether to unload the models of the old routes that no role uses any more.
    """

    client: Client
    pool: Pool
    name: str
    model: str | None
    report: Callable[[SwapStep], None]
    explain: Callable[[str], None]
    timeout_s: float
    unloads_old: bool = False

    async def run(self) -> None:
        """Carry out the swap.

        Raises:
            BadRequest: there is no such role or lane, or no swap to undo.
            ModelNotFound: no lane of the role, or not this lane, offers the model.
            ProviderDown: no lane that would serve the model accepts work now, or the worker of one went away.
            PolicyChanged: somebody else has changed one of the routes meanwhile.
            DeadlineExceeded: it took longer than `timeout_s`.
            LlmError: a lane could not load the model, or the model did not answer, answered nothing or broke off.

        Cancellation: nothing has changed unless `moved` was reported or was due next, but a model server may have
        loaded the model.
        """
        snapshot = await take_snapshot(self.pool)
        policy, lanes = snapshot.policy, snapshot.views
        target = find_target(self.name, policy, [status.role for status in snapshot.roles], lanes)
        routes = (
            routes_before(policy, target) if self.model is None else swapped_routes(policy, target, self.model, lanes)
        )
        changed = {role: route for role, route in routes.items() if route != route_of(policy, role)}
        for role in routes.keys() - changed.keys():
            self.report(SwapStep(step="unchanged", role=role, route=routes[role]))
        if not changed:
            return
        after, until = with_routes(policy, changed), _now() + self.timeout_s
        # A role that goes back to having no route uses whatever the pool has, so there is no new model to ask.
        if routed := {role: route for role, route in changed.items() if route}:
            for lane, model in await self._places_to_serve(after, routed, lanes, until):
                await self._prepare(lane, model, until)
        await self._move(policy, changed, max(until, _now() + _LEAST_MOVE_S))
        if self.unloads_old:
            left = [role for role in changed if route_of(policy, role)]
            old = [(lane.name, model) for lane, model in _places(policy, left, lanes)]
            await self._unload(old, _now() + self.timeout_s)

    async def _places_to_serve(
        self, policy: Policy, routes: Routes, lanes: Sequence[LaneView], until: float
    ) -> Sequence[tuple[LaneView, str]]:
        """The lanes that accept work and would serve the roles, each with its model. If there is no such lane, but a
        lane that may pull the model, that lane pulls it."""
        if places := [(lane, model) for lane, model in _places(policy, routes, lanes) if lane.state.accepts_work]:
            return places
        for role in routes:
            for lane, model in pullers(policy, role, Needs(), lanes):
                await self._command("pull", lane, model, until)
                return [(lane, model)]
        raise no_lane(str(self.pool), [lane for lane in lanes if any(may_use(policy, role, lane) for role in routes)])

    async def _prepare(self, lane: LaneView, model: str, until: float) -> None:
        """Load the model, if the lane lists it as not loaded, and let it answer."""
        async with self._step(f"Lane {lane.name!r} did not list its models", lane, model, until):
            listed = await self._listed(lane, model)
        if listed is not None and listed.loaded is False:
            await self._command("load", lane, model, until)
        began_at = _now()
        async with self._step(f"Model {model!r} gave no answer on lane {lane.name!r}", lane, model, until):
            async with (
                open_request(self.client.link, lambda: self._canary(lane.name, model)) as request,
                explaining_wait(request, lambda why: self.explain(f"{model} on lane {lane.name}: {why}")),
            ):
                await _answered(request)
        self._report_work("answered", lane, model, began_at)

    async def _listed(self, lane: LaneView, model: str) -> ModelInfo | None:
        """The model as the lane lists it now."""
        listed = await self._models.list_models(lane.name)
        name = served_name(model, [info.name for info in listed])
        return next((info for info in listed if info.name == name), None)

    def _canary(self, lane: str, model: str) -> Composed:
        """A short question to the model on this lane, wherever the routes lead."""
        options = ChatOptions(
            model=model,
            max_tokens=_ANSWER_TOKENS,
            priority="high",
            time_to_live_ms=min(86_400_000, int(1000 * self.timeout_s) + 1000),
        )
        envelope, payload = compose(
            new_id(), _QUESTION, "models", options, agent=self.client.agent, client=self.client.link.client
        )
        needs = envelope.needs.model_copy(update={"lane": lane})
        return envelope.model_copy(update={"needs": needs}), payload

    async def _command(
        self, action: Literal["pull", "load", "unload"], lane: LaneView, model: str, until: float
    ) -> None:
        began_at, explained = _now(), set[str]()
        async with self._step(f"Lane {lane.name!r} could not {action} model {model!r}", lane, model, until):
            async with aclosing(self._models.follow(action, model, lane.name)) as steps:
                async for progress in steps:
                    if progress.step not in explained:
                        explained.add(progress.step)
                        self.explain(f"{model} on lane {lane.name}: {progress.step}")
            info = await self._listed(lane, model) if action == "load" else None
        self._report_work(f"{action}ed", lane, model, began_at, info)

    async def _move(self, policy: Policy, routes: Routes, until: float) -> None:
        """Set the routes, all in one revision of the policy. What else has changed in the policy meanwhile stays.

        Raises:
            PolicyChanged: the rules of one of the roles have changed.
            DeadlineExceeded: it took too long.
        """
        try:
            async with asyncio.timeout_at(until):
                revision = await self._write(policy, routes)
        except TimeoutError:
            raise DeadlineExceeded(
                "The policy was not written in time, since others keep changing it or the pool is slow: "
                "`tokenlane policy show` says whether the routes have moved; if they have not, swap again."
            ) from None
        for role, route in routes.items():
            before = route_of(policy, role)
            self.report(SwapStep(step="moved", role=role, before=before, route=route, revision=revision))

    async def _write(self, policy: Policy, routes: Routes) -> int:
        """Write the policy with these routes; returns its revision."""
        now, revision = policy, 0
        while not revision:
            try:
                revision = await self.pool.policies.write(with_routes(now, routes), expected=now.revision)
            except PolicyChanged:
                now = await self.pool.policies.read()
            for role in routes:
                if now.roles.get(role) != policy.roles.get(role):
                    raise PolicyChanged(
                        f"The rules of role {role!r} were changed during the swap, in policy revision {now.revision}, "
                        "so the swap has changed nothing: see `tokenlane policy show`, then swap again."
                    )
        return revision

    async def _unload(self, places: Sequence[tuple[str, str]], until: float) -> None:
        """Unload the models of these lanes, unless a role now uses them for requests that name no model."""
        snapshot = await take_snapshot(self.pool)
        policy, lanes = snapshot.policy, {lane.name: lane for lane in snapshot.views}
        for lane, model in ((lanes[name], model) for name, model in places if name in lanes):
            user = next((role for role in policy.roles if (lane, model) in _places(policy, [role], [lane])), None)
            if user is not None:
                self.report(SwapStep(step="kept", lane=lane.name, model=model, role=user))
            elif "unload" in lane.offer.unsupported:
                self.explain(f"{model} stays on lane {lane.name}, which cannot unload models")
            elif lane.state.accepts_work:
                await self._command("unload", lane, model, until)

    @property
    def _models(self) -> Models:
        return Models(self.client.link, self.client.agent)

    def _report_work(
        self, step: str, lane: LaneView, model: str, began_at: float, info: ModelInfo | None = None
    ) -> None:
        facts = {"step": step, "lane": lane.name, "model": model, "took_ms": round(1000 * (_now() - began_at))}
        kv = {} if info is None else info.model_dump(include={"kv_tokens_kept", "kv_lost_because"})
        self.report(SwapStep.model_validate({**facts, **kv}))

    @asynccontextmanager
    async def _step(self, what: str, lane: LaneView, model: str, until: float) -> AsyncIterator[None]:
        """Raise an error from the block with what it means for the swap.

        Raises:
            DeadlineExceeded: the block has not ended at that time of the event loop's clock.
            ProviderDown: no worker has served the lane for longer than a restart takes.
        """
        is_away = False

        async def watch() -> None:
            nonlocal is_away
            await self._until_away(lane.name)
            is_away = True
            limit.reschedule(_now())

        try:
            async with asyncio.timeout_at(until) as limit, background() as tasks:
                tasks.create_task(watch(), name="tokenlane watch on the lane of a swap")
                yield
        except TimeoutError:
            if is_away:
                raise ProviderDown(
                    f"{what}: its worker has ended or cannot reach the pool. Start one with `tokenlane worker`, then "
                    "swap again.",
                    lane=lane.name,
                    model=model,
                ) from None
            raise DeadlineExceeded(
                f"{what} within the {self.timeout_s:g} s of the swap: see what `tokenlane lanes ls` says of the lane, "
                "or repeat the swap with a longer --timeout.",
                lane=lane.name,
                model=model,
            ) from None
        except LlmError as error:
            report = error.report().model_copy(update={"message": f"{what}: {error.message}"})
            raise LlmError.from_report(report).at(request_id=error.request_id) from None

    async def _until_away(self, name: str) -> None:
        """Return when no worker has served the lane for longer than a restart takes."""
        while True:
            await asyncio.sleep(_CHECK_LANE_EVERY_S)
            with suppress(LlmError):  # a pool that does not answer says nothing about the lane
                lane = next((lane for lane in await self.client.link.lanes() if lane.name == name), None)
                if lane is None or lane.is_long_away:
                    return


async def _answered(request: OpenRequest) -> None:
    """Wait for the end of an answer, and check that it is one that agents could use.

    Raises:
        ProviderDown: it has no content, or it broke off and was continued.
        LlmError: the request failed.
    """
    attempts = set[int]()
    while (delta := await request.next()) is not None:
        if delta.text or delta.reasoning or delta.tool_calls:
            attempts.add(delta.attempt)
    if not attempts:
        raise ProviderDown("The answer was empty.")
    if len(attempts) > 1:
        raise ProviderDown(f"The answer broke off, and took {len(attempts)} attempts.")


def _places(policy: Policy, roles: Iterable[str], lanes: Sequence[LaneView]) -> Iterator[tuple[LaneView, str]]:
    """Each lane that may serve one of the roles, with the model that a request without one would use there."""
    pairs = (pair for role in roles for pair in candidates(policy, role, Needs(), lanes))
    return iter({(lane.name, model): (lane, model) for lane, model in pairs}.values())


def _words(route: Sequence[Candidate]) -> str:
    return ", ".join(route_entry(candidate).strip('"') for candidate in route) or "any lane"


def _now() -> float:
    return asyncio.get_running_loop().time()
