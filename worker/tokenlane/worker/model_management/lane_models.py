"""The models of one lane: what is done with them, and what the lane says of them afterwards."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from typing import NoReturn, assert_never

from tokenlane.config.settings.values import LaneSettings
from tokenlane.routing.contract.errors import BadRequest, DigestMismatch, LlmError, ModelNotFound, ProviderDown
from tokenlane.routing.contract.requests import ModelCommand
from tokenlane.routing.contract.results import ModelInfo, ModelReport, Progress
from tokenlane.routing.decide.candidates import served_name
from tokenlane.routing.decide.lanes.offer import Announcement
from tokenlane.worker.providers import Advises, LlmProvider, Loads, Pulls, Verifies

from .pins import check_pin, pin_of
from .shared_download import Fetch, Tell

logger = logging.getLogger(__name__)

_DOING = {"pull": "Pulling", "verify": "Verifying", "load": "Loading", "unload": "Unloading"}

_MOST_WISHES = 64
_SHOW_EVERY_S = 1.0
_FAILED_S = 60.0
"""How long a model that could not be pulled is not tried again for a request."""


class LaneModels:
    """Carries out commands, one download of a model at a time, and pulls what requests wait for.

    Args:
        announced: what the lane has said of itself.
        look: finds out what there is to say now; asked after everything that may have changed it.
        say: lets the pool know.
    """

    def __init__(
        self,
        settings: LaneSettings,
        provider: LlmProvider,
        announced: Announcement,
        look: Callable[[], Awaitable[Announcement]],
        say: Callable[[Announcement], None],
    ) -> None:
        self._settings = settings
        self._provider = provider
        self._announced = announced
        self._look = look
        self._say = say
        self._fetches: dict[str, Fetch] = {}
        self._loading = asyncio.Lock()
        self._looking = asyncio.Lock()
        self._wishes: asyncio.Queue[str] = asyncio.Queue(_MOST_WISHES)
        self._failed: dict[str, tuple[str, float]] = {}
        self._shown_at = 0.0
        self._showing: asyncio.TimerHandle | None = None

    async def look_again(self) -> None:
        """Say what the lane has now: models and adapters come and go beside us too.

        Raises:
            LlmError: the back end does not say.
        """
        async with self._looking:  # or what one saw before a change would come after what another saw behind it
            self._announced = await self._look()
        self._show()

    def wish(self, model: bytes) -> None:
        """Hear which model a request waits for; what is not to be pulled on demand is not."""
        name, offer = model.decode("utf-8", "replace"), self._announced.offer
        allowed = offer.pulls and (offer.lacks is None or name in offer.lacks)
        if allowed and name not in self._fetches and name not in self._failed and not self._wishes.full():
            self._wishes.put_nowait(name)

    async def grant(self) -> None:
        """Pull what was wished for, one after another, until cancelled."""
        while True:
            model = await self._wishes.get()
            if served_name(model, self._announced.models) is not None or model in self._failed:
                continue
            try:
                await self.pull(model, _nobody)
                if served_name(model, self._announced.models) is None:
                    raise ModelNotFound("the back end does not list the model that it pulled, or not as one of use")
            except Exception as error:
                told = error if isinstance(error, LlmError) else ProviderDown(f"{type(error).__name__} in the provider")
                logger.warning("lane %r could not pull model %r, which a request asks for: %s", self.name, model, told)
                loop = asyncio.get_running_loop()
                self._failed[model] = told.code, loop.time()
                self._show()
                loop.call_later(_FAILED_S, self._show)

    @property
    def name(self) -> str:
        """The lane's."""
        return self._settings.name

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
                here = {"provider": self._settings.provider, "lane": self.name}
                models = await self._provider.models()
                return ModelReport(models=tuple(info.model_copy(update=here) for info in models))
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
            await fetch.wait(partial(self._told, tell))
        finally:
            if fetch.over and self._fetches.get(model) is fetch:
                del self._fetches[model]
                self._show()

    async def _fetching(self, provider: Pulls, model: str) -> AsyncGenerator[Progress, None]:
        """Fetch, check and announce the model. A pinned model that has its pinned content already is not fetched: all
        that a pull could bring is other content, which its server would serve before anybody could check it."""
        if pin_of(self._settings, model) is not None:
            if await self._is_as_pinned(model):
                yield Progress(step="already has the pinned content")
                return
            await self._say_anew()  # the lane stops serving what does not match the pin, before a pull replaces that
        async with aclosing(provider.pull(model)) as pulling:
            async for progress in pulling:
                yield progress
        try:
            await check_pin(self._settings, self._provider, model)
        finally:
            await self._say_anew()

    async def _is_as_pinned(self, model: str) -> bool:
        try:
            await check_pin(self._settings, self._provider, model)
        except (DigestMismatch, ModelNotFound):
            return False
        return True

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
            found = [ModelInfo(name=model, provider=self._settings.provider, lane=self.name)]
        return found

    async def _told(self, tell: Tell, progress: Progress) -> None:
        await tell(progress)
        if self._showing is None:
            loop = asyncio.get_running_loop()
            self._showing = loop.call_at(self._shown_at + _SHOW_EVERY_S, self._show)

    async def _say_anew(self) -> None:
        try:
            await self.look_again()
        except LlmError as error:
            logger.warning("lane %r cannot say which models it has: %s", self.name, error)
            self._show()

    def _show(self) -> None:
        """Let the pool know what the lane has, and what it pulls."""
        if self._showing is not None:
            self._showing.cancel()
            self._showing = None
        self._shown_at = now = asyncio.get_running_loop().time()
        self._failed = {model: (code, at) for model, (code, at) in self._failed.items() if now < at + _FAILED_S}
        offer = self._announced.offer.model_copy(
            update={
                "pulling": {model: fetch.progress for model, fetch in self._fetches.items() if not fetch.over},
                "unpulled": {model: code for model, (code, _) in self._failed.items()},
            }
        )
        self._say(replace(self._announced, offer=offer))

    def _unsupported(self, action: str, instead: str) -> NoReturn:
        if isinstance(self._provider, Advises):
            instead = self._provider.instead.get(action, instead)
        raise BadRequest(f"{_DOING[action]} a model is not supported by {self._settings.provider}: {instead}.")


async def _nobody(_: Progress) -> None:
    """Hears how far a pull is that no command asked for."""
