"""The step of a job that carries out a model command."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import NoReturn, TypeAlias, assert_never

from tokenlane.routing.errors import BadRequest
from tokenlane.routing.messages import ModelCommand, ModelInfo, ModelReport, Progress
from tokenlane.routing.policy import served_name
from tokenlane.worker.providers import LlmProvider, Loads, Pulls, Verifies

__all__ = ["Tell", "carry_out"]

Tell: TypeAlias = Callable[[Progress], Awaitable[None]]

_TELL_EVERY_S = 0.2


async def carry_out(provider: LlmProvider, command: ModelCommand, tell: Tell) -> ModelReport:
    """Do what the command says; the models it was about, as they are then.

    Args:
        tell: hears how far it has come, a few times a second at most.

    Raises:
        BadRequest: the provider cannot do that.
        LlmError: as the provider raises.
    """
    model = command.model or ""
    match command.action:
        case "list":
            pass
        case "pull":
            await pull(provider, model, tell)
        case "verify":
            digest = await verify(provider, model)
            found = await _listed(provider, model)
            return ModelReport(models=tuple(info.model_copy(update={"digest": digest}) for info in found))
        case "load":
            if not isinstance(provider, Loads):
                _unsupported("Loading a model", "it loads its model when it is started")
            await tell(Progress(step=f"loading {model}"))
            await provider.load(model)
        case "unload":
            if not isinstance(provider, Loads):
                _unsupported("Unloading a model", "stop its server to free the memory")
            await provider.unload(model)
        case _:
            assert_never(command.action)
    return ModelReport(models=tuple(await _listed(provider, command.model)))


async def pull(provider: LlmProvider, model: str, tell: Tell) -> None:
    """Have the model fetched, and tell how far that is: the first of every step, then as often as is of use."""
    if not isinstance(provider, Pulls):
        _unsupported("Pulling a model", "put it where the back end's server loads it from")
    clock = asyncio.get_running_loop().time
    step, due = "", 0.0
    async with aclosing(provider.pull(model)) as fetching:
        async for progress in fetching:
            if progress.step != step or clock() >= due:
                step, due = progress.step, clock() + _TELL_EVERY_S
                await tell(progress)


async def verify(provider: LlmProvider, model: str) -> str:
    """The digest of what the model is now."""
    if not isinstance(provider, Verifies):
        _unsupported("Verifying a model", "compare its files on the back end's host")
    return await provider.verify(model)


async def _listed(provider: LlmProvider, model: str | None) -> list[ModelInfo]:
    models = await provider.models()
    if model is None:
        return models
    name = served_name(model, [info.name for info in models])
    return [info for info in models if info.name == name]


def _unsupported(what: str, instead: str) -> NoReturn:
    raise BadRequest(f"{what} is not supported by this lane's provider: {instead}.")
