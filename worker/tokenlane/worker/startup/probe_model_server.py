"""Probes a lane's model server: lists its models, and detects its kind."""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, replace

from tokenlane.config.settings.values import LaneSettings, masked_url
from tokenlane.routing.contract.errors import LlmError, ProviderDown, Unauthorized
from tokenlane.routing.decide.candidates import served_name
from tokenlane.routing.decide.lanes.state import UP, ServerCondition
from tokenlane.routing.watch.finding import Code, Finding
from tokenlane.worker.discovery.model_servers import detect_kind
from tokenlane.worker.providers import LlmProvider
from tokenlane.worker.providers.server_names import NAMES, PULL_AND_LOAD, lists_all_models

_LOOK_S = 5.0


@dataclass(frozen=True)
class ServerProbe:
    """A model server, and its answer when asked for its models.

    Args:
        endpoint: the URL by which this worker reaches it, without a password.
        answered_in_ms: how long it took to list its models; None if it did not list them.
        error: why it did not list its models; also None for a server that is not started yet.
        server: the provider for the kind of server that answered; None if that kind was not recognised.
        condition: whether the model server can work.
    """

    endpoint: str
    answered_in_ms: float | None = None
    models: tuple[str, ...] = ()
    error: LlmError | None = None
    server: str | None = None
    condition: ServerCondition = UP

    def __str__(self) -> str:
        if isinstance(self.error, Unauthorized):
            return f"{self.endpoint}, refused the key"
        if self.error is not None:
            return f"{self.endpoint}, did not {'answer' if self.error.retryable else 'list its models'}"
        how = "started by the worker" if self.answered_in_ms is None else f"answered in {self.answered_in_ms:.0f} ms"
        return f"{self.endpoint}, {how}"

    def has(self, model: str) -> bool:
        """Whether the model server lists the model."""
        return served_name(model, self.models) is not None

    def findings(self, settings: LaneSettings) -> Iterator[Finding]:
        """The findings that keep the model server from serving this lane."""
        if self.error is not None:
            yield Finding(Code.MODEL_SERVER, "fail", str(self.error), subject=settings.name)
            return
        missing = [model for model in settings.models if not self.has(model)]
        if self.condition != UP and not missing:
            observed = f"the model server is {self.condition.state}: {self.condition.why}"
            yield Finding(Code.MODEL_SERVER, "fail", observed, subject=settings.name)
        for model in missing:
            observed = (
                f"the model server does not have model {model!r} (it has: {', '.join(self.models) or 'none'}), so "
                + _effect_of_missing(settings, is_only=len(missing) == len(settings.models))
            )
            yield Finding(Code.MODEL_MISSING, "fail", observed, _advice_for_missing(settings, model), settings.name)


async def probe_model_server(settings: LaneSettings, provider: LlmProvider, condition: ServerCondition) -> ServerProbe:
    """Ask a model server for its models, and at the same time detect its kind."""
    probe = ServerProbe(masked_url(provider.endpoint), condition=condition)
    if settings.provider not in NAMES:
        return await _with_models(probe, provider)
    async with asyncio.TaskGroup() as tasks:
        listing = tasks.create_task(_with_models(probe, provider))
        server = tasks.create_task(detect_kind(replace(settings, endpoint=provider.endpoint)))
    return replace(listing.result(), server=server.result())


async def _with_models(probe: ServerProbe, provider: LlmProvider) -> ServerProbe:
    clock = asyncio.get_running_loop().time
    start = clock()
    try:
        async with asyncio.timeout(_LOOK_S):
            models = await provider.models()
    except LlmError as error:
        return replace(probe, error=error)
    except TimeoutError:
        late = ProviderDown(f"The model server did not list its models within {_LOOK_S:g} s: is the endpoint right?")
        return replace(probe, error=late)
    return replace(
        probe, answered_in_ms=round(1000 * (clock() - start), 1), models=tuple(model.name for model in models)
    )


def _effect_of_missing(settings: LaneSettings, *, is_only: bool) -> str:
    if not lists_all_models(settings.provider):
        return "requests for it that reach this lane may fail, unless the server only does not list it"
    if is_only and settings.provider not in PULL_AND_LOAD:
        return "the lane stays closed, and its requests wait until the model server has the model"
    return "the lane does not offer it: requests for it go to other lanes, or are refused if no lane has it"


def _advice_for_missing(settings: LaneSettings, model: str) -> str:
    if settings.provider in PULL_AND_LOAD:
        lane = shlex.quote(settings.name)
        return f"pull it with `tokenlane models pull {shlex.quote(model)} --lane {lane}`, or serve others with --model"
    return "start the model server with this model, or serve one that it has with --model"
