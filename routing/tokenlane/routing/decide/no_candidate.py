"""What to do when no model can be reached; said by `probe`, and by requests that find no lane."""

from __future__ import annotations

from collections.abc import Sequence

from tokenlane.routing.contract.envelope import Needs
from tokenlane.routing.contract.errors import (
    BadRequest,
    ContextTooLong,
    ErrorReport,
    LlmError,
    ModelNotFound,
    ProviderDown,
)
from tokenlane.routing.contract.kinds import KINDS

from .candidates import candidates, may_use, served_name
from .fairness import Queue
from .lanes.fallback_lane import of_back_ends
from .lanes.offer import LaneView
from .policy import Policy

GET_A_MODEL = """\
Do one of these:
  - Install Ollama (https://ollama.com/download; `tokenlane probe` on a terminal offers to) and `ollama pull MODEL`;
    or start vLLM, LM Studio, TGI or llama.cpp with a model that can chat.
  - Use a remote OpenAI-compatible endpoint: in llm.toml
        [defaults]
        provider = "openai"
        model = "MODEL"
        [openai]
        endpoint = "https://HOST"
        api_key_env = "NAME_OF_THE_KEYS_VARIABLE"
  - Use the built-in model, a toy to see things work: --provider builtin
Then serve it: `tokenlane up` on its own, or `tokenlane worker` for a pool that runs."""


def no_lane(lanes: Sequence[LaneView] = ()) -> ProviderDown:
    """The end of a request in a pool that no worker is connected to, or none whose back end can work."""
    reasons = [why_unready(lane) for lane in lanes if lane.state.is_unready]
    if reasons:
        return ProviderDown(f"No lane takes work now: {'; '.join(reasons)}.", retryable=True)
    return ProviderDown(f"No lane is connected to this pool. {GET_A_MODEL}", retryable=False)


def why_unready(lane: LaneView) -> str:
    """Why an unready lane takes no work, as a part of a sentence."""
    return f"lane {lane.name!r} is {lane.state}: {lane.why.rstrip('.') or 'its worker does not start what it is given'}"


def not_pulled(lane: LaneView, model: str) -> LlmError:
    """The end of a request for a model that a lane could not pull."""
    report = ErrorReport(
        code=lane.offer.unpulled[model],
        message="the lane could not pull this model, and tries again a minute later at the earliest: "
        f"`tokenlane models pull {model} --lane {lane.name}` says why",
        lane=lane.name,
        provider=lane.provider,
        model=model,
    )
    return LlmError.from_report(report)


def nobody(queue: Queue, policy: Policy, lanes: Sequence[LaneView]) -> LlmError:
    """Why none of these lanes is a candidate for what waits in the queue, and what to do.

    Names only lanes that are there, and that the role may use.
    """
    there = [lane for lane in of_back_ends(lanes) if not lane.state.is_away]
    if not there:
        return no_lane()
    if not KINDS[queue.kind].follows_routes:
        return _no_taker(queue, there)
    needs = queue.needs
    open_to = [lane for lane in there if may_use(policy, queue.role, lane)]
    if needs.lane is not None and needs.lane not in (lane.name for lane in open_to):
        return _not_that_lane(queue, needs.lane, there, open_to)
    if not open_to:
        return _not_routed(queue)
    shorter = needs.model_copy(update={"input": 0})
    limits = [
        lane.offer.max_input_tokens or 0 for lane, _ in candidates(policy, queue.role, shorter, open_to, queue.kind)
    ]
    if limits:
        return ContextTooLong(
            f"the prompt has about {needs.input} tokens, and the lanes that may serve it take {max(limits)} at most "
            "(max_input_tokens): shorten it, or raise the limit of a lane",
            model=needs.model,
        )
    return _lacking(queue, policy, there, open_to)


def _lacking(queue: Queue, policy: Policy, there: Sequence[LaneView], open_to: Sequence[LaneView]) -> LlmError:
    """Which provider, ability or model the lanes do not have that the role may use."""
    of, needs = "", queue.needs
    if needs.provider is not None:
        told = ", ".join(sorted(f"{lane.name} ({lane.provider})" for lane in open_to))
        there = open_to = [lane for lane in open_to if lane.provider == needs.provider]
        if not open_to:
            return ProviderDown(f"no lane has provider {needs.provider!r}; connected lanes: {told}", retryable=False)
        of = f" of provider {needs.provider!r}"
    served = sorted(
        {name for lane in open_to for name in lane.models_for(queue.kind) if may_use(policy, queue.role, lane, name)}
    )
    kind = KINDS[queue.kind]
    if kind.to_pull and not served:
        return ProviderDown(
            f"no lane{of} can {queue.kind}: have one pull a model that does, `tokenlane models pull {kind.to_pull} "
            f"--lane LANE`{_no_fallback(policy, needs)}; connected lanes: {_names(open_to)}",
            retryable=False,
            model=needs.model,
        )
    anywhere = [name for lane in there for name in lane.models_for(queue.kind)]
    if needs.model is not None and served_name(needs.model, anywhere) is None:
        return ModelNotFound(
            f"no lane{of} serves this model for {kind.operation}; served are: {', '.join(served) or 'none'}",
            model=needs.model,
        )
    return _not_routed(queue)


def _not_that_lane(queue: Queue, name: str, there: Sequence[LaneView], open_to: Sequence[LaneView]) -> BadRequest:
    known = name in (lane.name for lane in there)
    what = f"role {queue.role!r} may not use lane {name!r}" if known else f"no lane is called {name!r}"
    return BadRequest(f"{what}; connected lanes that the role may use: {_names(open_to) or 'none'}")


def _no_taker(queue: Queue, lanes: Sequence[LaneView]) -> LlmError:
    names, needs = _names(lanes), queue.needs
    if needs.lane is not None and needs.lane not in (lane.name for lane in lanes):
        return BadRequest(f"no lane is called {needs.lane!r}; connected lanes: {names}")
    return ProviderDown(f"no lane takes {queue.kind}s: start a newer worker; connected lanes: {names}", retryable=False)


def _not_routed(queue: Queue) -> ProviderDown:
    return ProviderDown(
        f"no lane that is connected may serve role {queue.role!r} with what this request asks for: change the role's "
        "route, or start a worker on a lane that it names (`tokenlane status` shows the lanes, `tokenlane probe` finds "
        "model servers)",
        retryable=False,
        model=queue.needs.model,
    )


def _names(lanes: Sequence[LaneView]) -> str:
    return ", ".join(sorted(lane.name for lane in lanes))


def _no_fallback(policy: Policy, needs: Needs) -> str:
    if needs.model or needs.provider or needs.lane:
        return ""
    if policy.fallback == "error":
        return ' (the pool\'s policy has fallback = "error")'
    return ", or install tokenlane[fasttext] beside a worker, for a small fallback model"
