"""Builds the errors for requests that no lane can serve, with advice for each."""

from __future__ import annotations

from collections.abc import Sequence

from tokenlane.config.extras import install_advice
from tokenlane.routing.contract.envelope import Needs
from tokenlane.routing.contract.errors import (
    BadRequest,
    ContextTooLong,
    ErrorReport,
    Interrupted,
    LlmError,
    ModelNotFound,
    ProviderDown,
)
from tokenlane.routing.contract.kinds import KINDS

from .candidates import candidates, may_use, served_name
from .lanes.fallback_lane import of_model_servers
from .lanes.offer import LaneView
from .policy import Policy, RolePolicy
from .queue_key import Queue


def no_lane(pool: str = "this pool", lanes: Sequence[LaneView] = ()) -> ProviderDown:
    """The error for a request in a pool without a lane that accepts work.

    Args:
        pool: the pool as messages name it.
        lanes: the lanes of the pool. If some of them are connected but not ready, the error says why.
    """
    reasons = [why_closed(lane) for lane in lanes if lane.is_closed]
    if reasons:
        return ProviderDown(f"No lane of {pool} accepts work now: {'; '.join(reasons)}.", retryable=True)
    return ProviderDown(
        f"No lane is connected to {pool}: start one with `tokenlane up` or `tokenlane worker`; if this is the wrong "
        "pool, change the Redis URL or the pool's name.",
        retryable=False,
    )


def why_closed(lane: LaneView) -> str:
    """Why an unready or drained lane accepts no work, as part of a sentence."""
    why = lane.why.rstrip(".") or "its worker is alive but does not start requests"
    return f"lane {lane.name!r} is {lane.state}: {why}"


def not_pulled(lane: LaneView, model: str) -> LlmError:
    """The error for a request that needs a model which a lane could not pull."""
    report = ErrorReport(
        code=lane.offer.unpulled[model],
        message=f"Lane {lane.name!r} could not pull model {model!r}, and will not try again for at least a minute: "
        f"`tokenlane models pull {model} --lane {lane.name}` shows why.",
        lane=lane.name,
        provider=lane.provider,
        model=model,
    )
    return LlmError.from_report(report)


_DOING = {"pull": "Pulling", "verify": "Verifying", "load": "Loading", "unload": "Unloading"}


def unsupported_command(action: str, lane: str, provider: str, advice: str) -> BadRequest:
    """The error for a model command that a lane cannot carry out.

    Args:
        advice: what to do instead, as the lane's offer says it.
    """
    message = f"{_DOING.get(action, action)} a model is not supported by {provider}: {advice}."
    return BadRequest(message, lane=lane, provider=provider)


def no_candidate_error(queue: Queue, policy: Policy, lanes: Sequence[LaneView], pool: str = "this pool") -> LlmError:
    """The error for a queue for which none of these lanes is a candidate.

    Its message names only connected lanes that the role may use.

    Args:
        pool: the pool as messages name it.
    """
    connected = [lane for lane in of_model_servers(lanes) if not lane.state.is_away]
    if queue.needs.continues is not None:
        return _cannot_continue(queue, queue.needs.continues, policy, connected, pool)
    if not connected:
        return no_lane(pool)
    needs, is_routed = queue.needs, KINDS[queue.kind].follows_routes
    named = [lane for lane in connected if lane.name == needs.lane]
    open_to = named or [lane for lane in connected if not is_routed or may_use(policy, queue.role, lane)]
    if needs.lane is not None and not named:
        return BadRequest(
            f"No connected lane is named {needs.lane!r}; connected lanes that the role may use: "
            f"{_names(open_to) or 'none'}."
        )
    if not is_routed:
        return ProviderDown(
            f"No connected lane serves {queue.kind} requests: update tokenlane on a worker's host; connected lanes: "
            f"{_names(open_to)}.",
            retryable=False,
        )
    if not open_to:
        return _not_routed(queue)
    shorter = needs.model_copy(update={"input": 0})
    limits = [
        lane.offer.max_input_tokens or 0 for lane, _ in candidates(policy, queue.role, shorter, open_to, queue.kind)
    ]
    if limits:
        return ContextTooLong(
            f"The prompt has about {needs.input} tokens, but the lanes that may serve it accept at most {max(limits)}: "
            "shorten the prompt, or raise a lane's `max_input_tokens`.",
            model=needs.model,
        )
    return _not_offered(queue, policy, connected, open_to)


def _cannot_continue(queue: Queue, model: str, policy: Policy, connected: Sequence[LaneView], pool: str) -> Interrupted:
    """The error for a request whose answer broke off, and that no lane can continue with this model."""
    fresh = queue.needs.model_copy(update={"continues": None, "model": model})
    serving = [lane for lane, _ in candidates(policy, queue.role, fresh, connected, queue.kind)]
    if not connected:
        reason = f"no lane is connected to {pool}"
    elif not serving:
        reason = "no connected lane that the request may use serves this model"
    elif len(serving) == 1:
        reason = f"lane {serving[0].name!r} cannot continue an answer of this model"
    else:
        reason = f"lanes {_names(serving)} cannot continue an answer of this model"
    role = policy.roles.get(queue.role, RolePolicy()).model_copy(update={"continue_with": "any"})
    relaxed = policy.model_copy(update={"roles": policy.roles | {queue.role: role}})
    advice = "send the request again"
    if next(candidates(relaxed, queue.role, queue.needs, connected, queue.kind), None) is not None:
        advice += f', or let other models continue answers with continue_with = "any" in [roles.{queue.role}]'
    return Interrupted(f"The answer of model {model!r} broke off, and {reason}: {advice}.", model=model)


def _not_offered(queue: Queue, policy: Policy, connected: Sequence[LaneView], open_to: Sequence[LaneView]) -> LlmError:
    """The error that names the provider, kind of work or model that no lane of the role offers."""
    which, needs = "", queue.needs
    if needs.provider is not None:
        names = ", ".join(sorted(f"{lane.name} ({lane.provider})" for lane in open_to))
        connected = open_to = [lane for lane in open_to if lane.provider == needs.provider]
        if not open_to:
            return ProviderDown(
                f"No connected lane has provider {needs.provider!r}; connected lanes: {names}.", retryable=False
            )
        which = f" with provider {needs.provider!r}"
    served = sorted(
        {name for lane in open_to for name in lane.models_for(queue.kind) if may_use(policy, queue.role, lane, name)}
    )
    kind = KINDS[queue.kind]
    if kind.recommended_model and not served:
        return ProviderDown(
            f"No connected lane{which} has a model that can {queue.kind}: pull a model with `tokenlane models pull "
            f"{kind.recommended_model} --lane LANE`{_fallback_advice(policy, needs)}; connected lanes: "
            f"{_names(open_to)}.",
            retryable=False,
            model=needs.model,
        )
    anywhere = [name for lane in connected for name in lane.models_for(queue.kind)]
    if needs.model is not None and served_name(needs.model, anywhere) is None:
        return ModelNotFound(
            f"No connected lane{which} serves model {needs.model!r} for {kind.operation}; available models: "
            f"{', '.join(served) or 'none'}.",
            model=needs.model,
        )
    return _not_routed(queue)


def _not_routed(queue: Queue) -> ProviderDown:
    return ProviderDown(
        f"The route of role {queue.role!r} leads to no connected lane that can serve this request: change the route "
        "(`tokenlane policy show` prints it), or start a worker for a lane of the route (`tokenlane status` lists the "
        "connected lanes).",
        retryable=False,
        model=queue.needs.model,
    )


def _names(lanes: Sequence[LaneView]) -> str:
    return ", ".join(sorted(lane.name for lane in lanes))


def _fallback_advice(policy: Policy, needs: Needs) -> str:
    """Why the fallback lane does not serve the request, or how to add it, as the end of a piece of advice."""
    if needs.model or needs.provider or needs.lane:
        return ""
    if policy.fallback == "error":
        return ' (the fallback model is off: the pool\'s policy has fallback = "error")'
    return f", or on a worker's host, {install_advice('fasttext')}, which embeds with a small fallback model"
