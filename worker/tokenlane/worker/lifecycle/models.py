"""The models of one lane: what is done with them, and what the lane says of them afterwards."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import NoReturn, TypeAlias, assert_never

from tokenlane.config.values import LaneSettings
from tokenlane.routing.errors import BadRequest, LlmError
from tokenlane.routing.messages import ModelCommand, ModelInfo, ModelReport, Progress
from tokenlane.routing.policy import served_name
from tokenlane.worker.providers import Advises, KeepsBefore, LlmProvider, Loads, Pulls, Verifies

from .fetch import Fetch, Tell
from .pins import check_pin, pin_of

__all__ = ["LaneModels", "Tell"]

logger = logging.getLogger(__name__)

LOOK_EVERY_S = 60.0
"""Models may also be pulled and removed beside us."""

_DOING = {
    "pull": "Pulling a model",
    "verify": "Verifying a model",
    "load": "Loading a model",
    "unload": "Unloading one",
}

Announce: TypeAlias = Callable[[], Awaitable[None]]


class LaneModels:
    """Carries out commands, one download of a model at a time.

    Args:
        announce: says anew what the lane has; called after everything that may have changed that.
    """

    def __init__(self, settings: LaneSettings, provider: LlmProvider, announce: Announce) -> None:
        self._settings = settings
        self._provider = provider
        self._announce = announce
        self._fetches: dict[str, Fetch] = {}
        self._loading = asyncio.Lock()

    async def run(self) -> None:
        """Look for what others have changed, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            await self._say_anew()

    async def carry_out(self, command: ModelCommand, tell: Tell) -> ModelReport:
        """Do what the command says; the models it was about, as they are then.

        Args:
            tell: hears how far it has come, a few times a second at most.

        Raises:
            BadRequest: the provider cannot do that.
            DigestMismatch: the model is not the one that was pinned.
            LlmError: as the provider raises.
        """
        model = command.model or ""
        match command.action:
            case "list":
                return ModelReport(models=tuple(await self._provider.models()))
            case "pull":
                await self.pull(model, tell)
            case "verify":
                return await self._verify(model)
            case "load":
                await self._load(model, tell)
            case "unload":
                await self._unload(model)
            case _:
                assert_never(command.action)
        return ModelReport(models=tuple(await self._listed(model)))

    async def pull(self, model: str, tell: Tell) -> None:
        """Have the model fetched; joins a download of it that is under way.

        Cancellation: the download stops if nobody else waits for it.
        """
        provider = self._provider
        if not isinstance(provider, Pulls):
            self._unsupported("pull", "put the model where its server loads it from")
        fetch = self._fetches.get(model)
        if fetch is None or fetch.over:
            fetch = self._fetches[model] = Fetch(self._fetching(provider, model))
        try:
            await fetch.wait(tell)
        finally:
            if fetch.over and self._fetches.get(model) is fetch:
                del self._fetches[model]

    async def _fetching(self, provider: Pulls, model: str) -> AsyncGenerator[Progress, None]:
        """Fetch, check and announce the model; one that is not as it was pinned makes room for the one before."""
        keeps = provider if isinstance(provider, KeepsBefore) and pin_of(self._settings, model) else None
        if keeps is not None:
            await keeps.keep_before(model)
        try:
            async with aclosing(provider.pull(model)) as pulling:
                async for progress in pulling:
                    yield progress
            try:
                await check_pin(self._settings, self._provider, model)
            except LlmError:
                if keeps is not None:
                    await keeps.put_back(model)
                raise
        finally:
            if keeps is not None:
                await keeps.forget_before(model)
        await self._say_anew()

    async def _verify(self, model: str) -> ModelReport:
        provider = self._provider
        if not isinstance(provider, Verifies):
            self._unsupported("verify", "compare its files on the back end's host with their publisher's hashes")
        digest = await provider.verify(model)
        found = tuple(info.model_copy(update={"digest": digest}) for info in await self._listed(model, or_name=True))
        await check_pin(self._settings, provider, model, found)
        return ModelReport(models=found)

    async def _load(self, model: str, tell: Tell) -> None:
        provider = self._provider
        if not isinstance(provider, Loads):
            self._unsupported("load", "start its server with the model")
        async with self._loading:
            await check_pin(self._settings, provider, model)
            await tell(Progress(step="loading"))
            await provider.load(model)
        await self._say_anew()

    async def _unload(self, model: str) -> None:
        provider = self._provider
        if not isinstance(provider, Loads):
            self._unsupported("unload", "stop its server to free the memory")
        async with self._loading:
            await provider.unload(model)
        await self._say_anew()

    async def _listed(self, model: str, *, or_name: bool = False) -> list[ModelInfo]:
        """What the back end says of the model now; nothing if it does not serve it.

        Args:
            or_name: then at least its name.
        """
        models = await self._provider.models()
        name = served_name(model, [info.name for info in models])
        found = [info for info in models if info.name == name]
        if not found and or_name:
            found = [ModelInfo(name=model, provider=self._settings.provider, lane=self._settings.name)]
        return found

    async def _say_anew(self) -> None:
        try:
            await self._announce()
        except LlmError as error:
            logger.warning("lane %r cannot say which models it has: %s", self._settings.name, error)

    def _unsupported(self, action: str, instead: str) -> NoReturn:
        if isinstance(self._provider, Advises):
            instead = self._provider.instead.get(action, instead)
        raise BadRequest(f"{_DOING[action]} a model is not supported by {self._settings.provider}: {instead}.")
