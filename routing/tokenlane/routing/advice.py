"""What to do when no model can be reached; said by `probe`, and by requests that find no lane."""

from __future__ import annotations

from collections.abc import Sequence

from .errors import BadRequest, ContextTooLong, ErrorReport, LlmError, ModelNotFound, ProviderDown
from .lanes import LaneView
from .messages import Needs
from .policy import Policy, candidates, served_name
from .queues import Queue

__all__ = ["GET_A_MODEL", "no_lane", "nobody", "not_pulled"]

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


def no_lane() -> ProviderDown:
    """The end of a request in a pool that no worker is connected to."""
    return ProviderDown(f"No lane is connected to this pool. {GET_A_MODEL}", retryable=False)


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
    """Why none of these lanes is a candidate for what waits in the queue, and what to do."""
    if not lanes:
        return no_lane()
    lanes = [lane for lane in lanes if not lane.is_fallback] or lanes
    needs, names = queue.needs, ", ".join(sorted(lane.name for lane in lanes))
    if needs.lane is not None and needs.lane not in (lane.name for lane in lanes):
        return BadRequest(f"no lane is called {needs.lane!r}; connected lanes: {names}")
    if queue.kind == "command":
        return ProviderDown(f"no lane takes commands: start a newer worker; connected lanes: {names}", retryable=False)
    shorter = needs.model_copy(update={"input": 0})
    limits = [
        lane.offer.max_input_tokens or 0 for lane, _ in candidates(policy, queue.role, shorter, lanes, queue.kind)
    ]
    if limits:
        return ContextTooLong(
            f"the prompt has about {needs.input} tokens, and the lanes that may serve it take {max(limits)} at most "
            "(max_input_tokens): shorten it, or raise the limit of a lane",
            model=needs.model,
        )
    of, asked = "", needs.provider
    if asked is not None:
        there = ", ".join(sorted(f"{lane.name} ({lane.provider})" for lane in lanes))
        lanes = [lane for lane in lanes if lane.provider == asked]
        if not lanes:
            return ProviderDown(f"no lane has provider {asked!r}; connected lanes: {there}", retryable=False)
        of = f" of provider {asked!r}"
    served = sorted({name for lane in lanes for name in lane.models_for(queue.kind)})
    if queue.kind == "embed" and not served:
        return ProviderDown(
            f"no lane{of} can embed: have one pull a model that does, `tokenlane models pull nomic-embed-text "
            f"--lane LANE`{_no_fallback(policy, needs)}; connected lanes: {names}",
            retryable=False,
            model=needs.model,
        )
    if needs.model is not None and served_name(needs.model, served) is None:
        what = {"chat": "this model", "embed": "this model for embeddings"}[queue.kind]
        return ModelNotFound(f"no lane{of} serves {what}; served are: {', '.join(served) or 'none'}", model=needs.model)
    return ProviderDown(
        f"no lane may serve role {queue.role!r} with what this request asks for: change the role's route, or start a "
        f"worker on a lane that it names (`tokenlane probe` finds model servers); connected lanes: {names}",
        retryable=False,
        model=needs.model,
    )


def _no_fallback(policy: Policy, needs: Needs) -> str:
    if needs.model or needs.provider or needs.lane:
        return ""
    if policy.fallback == "error":
        return ' (the pool\'s policy has fallback = "error")'
    return ", or install tokenlane[fasttext] beside a worker, for a small fallback model"
