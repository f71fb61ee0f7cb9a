"""Carries out one lane's model commands and on-demand pulls, and announces the lane's models after each change."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import aclosing
from dataclasses import replace
from typing import NoReturn, assert_never

from tokenlane.config.settings.values import LaneSettings
from tokenlane.routing.contract.errors import DigestMismatch, LlmError, ModelNotFound, ProviderDown
from tokenlane.routing.contract.requests import ModelCommand
from tokenlane.routing.contract.results import ModelInfo, ModelReport, Progress
from tokenlane.routing.decide.candidates import served_name
from tokenlane.routing.decide.lanes.offer import Announcement
from tokenlane.routing.decide.no_candidate import unsupported_command
from tokenlane.worker.providers import LlmProvider, Pulls, Verifies, can_load

from .pinned_digests import check_pin, pin_of, pin_source
from .shared_pull import ReportProgress, SharedPull
from .unsupported_commands import unsupported_commands

logger = logging.getLogger(__name__)

_MOST_REQUESTED = 64
_PROGRESS_EVERY_S = 1.0
_FAILED_S = 60.0
"""How long a model is not pulled again on demand after its pull failed."""


class LaneModels:
    """Carries out model commands, and pulls the models that waiting requests need. Each model has at most one pull.

    Args:
        announcement: the lane's announcement so far.
        describe: asks the model server for the lane's announcement; called after each command that may change it.
        announce: publishes an announcement to the pool.
    """

    def __init__(
        self,
        settings: LaneSettings,
        provider: LlmProvider,
        announcement: Announcement,
        describe: Callable[[], Awaitable[Announcement]],
        announce: Callable[[Announcement], None],
    ) -> None:
        self._settings = settings
        self._provider = provider
        self._announcement = announcement
        self._describe = describe
        self._announce = announce
        self._pulls: dict[str, SharedPull] = {}
        self._requested: asyncio.Queue[str] = asyncio.Queue(_MOST_REQUESTED)
        self._failed: dict[str, tuple[str, float]] = {}
        self._loading = asyncio.Lock()
        self._describing = asyncio.Lock()
        self._announced_at = 0.0
        self._next_announcement: asyncio.TimerHandle | None = None

    async def announce_again(self) -> None:
        """Ask the model server for the lane's models, and announce them. They may change without a command to this
        worker.

        Raises:
            LlmError: the model server does not answer.
        """
        async with self._describing:  # otherwise an older description could replace a newer one
            self._announcement = await self._describe()
        self._announce_now()

    def request_pull(self, message: bytes) -> None:
        """Queue a pull of the model that a waiting request needs. Ignored if the lane may not pull that model, already
        pulls it, or failed to pull it within the last minute."""
        model, offer = message.decode("utf-8", "replace"), self._announcement.offer
        allowed = offer.pulls and (offer.lacks is None or model in offer.lacks)
        if allowed and model not in self._pulls and model not in self._failed and not self._requested.full():
            self._requested.put_nowait(model)

    async def run_pulls(self) -> None:
        """Pull the requested models, one after another, until cancelled."""
        while True:
            model = await self._requested.get()
            if served_name(model, self._announcement.models) is not None or model in self._failed:
                continue
            try:
                await self._pull(model, _ignore)
                if served_name(model, self._announcement.models) is None:
                    raise ModelNotFound(
                        "The model was pulled, but the model server does not list it as a model that can chat or embed."
                    )
            except Exception as error:
                known = (
                    error
                    if isinstance(error, LlmError)
                    else ProviderDown(f"The provider raised {type(error).__name__}.")
                )
                name = self._settings.name
                logger.warning("lane %r could not pull model %r, which a request needs: %s", name, model, known)
                loop = asyncio.get_running_loop()
                self._failed[model] = known.code, loop.time()
                self._announce_now()
                loop.call_later(_FAILED_S, self._announce_now)

    async def carry_out(self, command: ModelCommand, report: ReportProgress) -> ModelReport:
        """Carry out a command, and return its models in their state after the command.

        Args:
            report: called with the progress, at most a few times a second.

        Raises:
            BadRequest: the provider does not support the action.
            DigestMismatch: the model is not the pinned one.
            LlmError: the provider raised it.
        """
        model = command.model or ""
        match command.action:
            case "list":
                return ModelReport(models=tuple(map(self._describe_model, await self._provider.models())))
            case "verify":
                return ModelReport(models=await self._verify(model))
            case "pull":
                await self._pull(model, report)
            case "load":
                await self._load(model, report)
            case "unload":
                await self._unload(model)
            case _:
                assert_never(command.action)
        return ModelReport(models=tuple(await self._listed(model)))

    def _describe_model(self, info: ModelInfo) -> ModelInfo:
        """Add the lane, the pin, and whether the lane offers the model."""
        settings, lane = self._settings, self._announcement
        offered = any(served_name(name, (info.name,)) is not None for name in lane.models)
        facts = {
            "provider": settings.provider,
            "lane": settings.name,
            "pinned_by": pin_source(settings, info.name),
            "offered": offered,
            "not_offered_because": "" if offered else self._why_not_offered(info),
        }
        return info.model_copy(update=facts)

    def _why_not_offered(self, info: ModelInfo) -> str:
        def is_among(names: Iterable[str]) -> bool:
            return any(served_name(name, (info.name,)) is not None for name in names)

        if self._settings.models and not is_among(self._settings.models):
            return "not in the lane's models (--model)"
        if is_among(self._announcement.offer.not_as_pinned):
            return "not as pinned (`tokenlane status --check` says why)"
        return "" if info.chats or info.embeds else "can neither chat nor embed"

    async def _pull(self, model: str, report: ReportProgress) -> None:
        """Pull the model, or wait for its running pull. A pull stops when no command and no request waits for it."""
        provider = self._provider
        if not isinstance(provider, Pulls):
            self._refuse("pull")

        async def report_and_announce(progress: Progress) -> None:
            await report(progress)
            if self._next_announcement is None:
                due = self._announced_at + _PROGRESS_EVERY_S
                self._next_announcement = asyncio.get_running_loop().call_at(due, self._announce_now)

        pull = self._pulls.get(model)
        if pull is None or pull.is_ending:
            pull = self._pulls[model] = SharedPull(self._pull_and_check(provider, model))
        try:
            await pull.wait(report_and_announce)
        finally:
            if pull.is_ending and self._pulls.get(model) is pull:
                del self._pulls[model]
                self._announce_now()

    async def _pull_and_check(self, provider: Pulls, model: str) -> AsyncGenerator[Progress, None]:
        """Pull, check and announce the model. A pinned model that already has its pinned content is not pulled, since a
        pull could only bring other content, which the model server would serve before the check."""
        if pin_of(self._settings, model) is not None:
            try:
                await check_pin(self._settings, self._provider, model)
            except (DigestMismatch, ModelNotFound):
                # Before the pull, so that the lane does not serve content that does not match the pin.
                await self._try_announce_again()
            else:
                yield Progress(step="already has the pinned content")
                return
        async with aclosing(provider.pull(model)) as pulling:
            async for progress in pulling:
                yield progress
        try:
            await check_pin(self._settings, self._provider, model, was_pulled=True)
        finally:
            await self._try_announce_again()

    async def _verify(self, model: str) -> tuple[ModelInfo, ...]:
        provider = self._provider
        if not isinstance(provider, Verifies):
            self._refuse("verify")
        digest = await provider.verify(model)
        unlisted = ModelInfo(name=model, provider=self._settings.provider, lane=self._settings.name)
        listed = await self._listed(model) or [unlisted]
        models = tuple(info.model_copy(update={"digest": digest}) for info in listed)
        await check_pin(self._settings, provider, model, models)
        return models

    async def _load(self, model: str, report: ReportProgress) -> None:
        provider = self._provider
        if not can_load(provider):
            self._refuse("load")
        async with self._loading:
            await check_pin(self._settings, self._provider, model)
            await report(Progress(step="loading"))
            await provider.load(model)
        await self._try_announce_again()

    async def _unload(self, model: str) -> None:
        provider = self._provider
        if not can_load(provider):
            self._refuse("unload")
        async with self._loading:
            await provider.unload(model)
        await self._try_announce_again()

    async def _listed(self, model: str) -> list[ModelInfo]:
        """The model as the model server lists it now; empty if the model server does not list it."""
        models = await self._provider.models()
        name = served_name(model, [info.name for info in models])
        return [info for info in models if info.name == name]

    async def _try_announce_again(self) -> None:
        try:
            await self.announce_again()
        except LlmError as error:
            logger.warning("lane %r cannot list its models: %s", self._settings.name, error)
            self._announce_now()

    def _announce_now(self) -> None:
        """Announce the lane's last description, with its running and failed pulls."""
        if self._next_announcement is not None:
            self._next_announcement.cancel()
            self._next_announcement = None
        self._announced_at = now = asyncio.get_running_loop().time()
        self._failed = {model: (code, at) for model, (code, at) in self._failed.items() if now < at + _FAILED_S}
        offer = self._announcement.offer.model_copy(
            update={
                "pulling": {model: pull.progress for model, pull in self._pulls.items() if not pull.is_ending},
                "unpulled": {model: code for model, (code, _) in self._failed.items()},
            }
        )
        self._announce(replace(self._announcement, offer=offer))

    def _refuse(self, action: str) -> NoReturn:
        advice = unsupported_commands(self._provider)[action]
        raise unsupported_command(action, self._settings.name, self._settings.provider, advice)


async def _ignore(_: Progress) -> None:
    """Ignore the progress of a pull that no command requested."""
