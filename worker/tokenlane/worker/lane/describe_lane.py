"""What a lane says of itself: its models, what each can do, and how much it takes of each kind of work."""

from __future__ import annotations

import ipaddress
import logging
import socket
from collections.abc import Sequence
from urllib.parse import urlsplit, urlunsplit

from tokenlane.config.host.socket_urls import socket_of
from tokenlane.config.settings.values import LaneSettings, masked
from tokenlane.routing.contract.errors import BadRequest, LlmError, ModelNotFound
from tokenlane.routing.contract.kinds import KINDS
from tokenlane.routing.contract.results import ModelInfo
from tokenlane.routing.contract.wire import Kind
from tokenlane.routing.decide.candidates import served_name
from tokenlane.routing.decide.lanes.offer import Announcement, Offer
from tokenlane.worker.models.pins import check_pin, pin_of
from tokenlane.worker.providers import Embeds, LlmProvider, Loads, Pulls

logger = logging.getLogger(__name__)

_TAKES: dict[Kind, type] = {"embed": Embeds}
"""What a provider must be for a lane to take that kind of work; any will do for the others."""


async def announce(settings: LaneSettings, provider: LlmProvider) -> Announcement:
    """What the lane offers: as the settings say, else as the back end does. What is not as it was pinned is left out.

    Raises:
        ModelNotFound: the back end serves no model, nor can it be told to fetch one, and the settings name none.
        BadRequest: models are to be pulled when they are asked for, and the provider cannot.
        LlmError: the back end does not answer.
    """
    _check_auto_pull(settings, provider)
    listed = await _listed(settings, provider)
    models = await _as_pinned(settings, provider, _served(settings, listed), listed)
    if not models and not _serves_what_it_pulls(provider):
        raise ModelNotFound(
            "the back end serves no model that can chat: load one, or name those it will serve with --model",
            provider=settings.provider,
            lane=settings.name,
        )
    chats = settings.capacity or await provider.capacity()
    offer = _offer(settings, provider, models, listed, chats)
    return Announcement(settings.name, settings.provider, _known_to_all(provider.endpoint), models, offer)


def announce_unseen(settings: LaneSettings, provider: LlmProvider) -> Announcement:
    """What there is to say of the lane as long as its back end does not answer.

    Raises:
        BadRequest: as `announce`.
    """
    _check_auto_pull(settings, provider)
    models = () if settings.auto_pull else settings.models
    offer = _offer(settings, provider, (), (), settings.capacity or 1)
    return Announcement(settings.name, settings.provider, _known_to_all(provider.endpoint), models, offer)


def _check_auto_pull(settings: LaneSettings, provider: LlmProvider) -> None:
    if settings.auto_pull and not _serves_what_it_pulls(provider):
        raise BadRequest(f"auto_pull is not supported by {settings.provider}: take it out for lane {settings.name!r}")


def _serves_what_it_pulls(provider: LlmProvider) -> bool:
    """Whether its server can do without a model at first; others are started with one."""
    return isinstance(provider, Pulls) and isinstance(provider, Loads)


async def _listed(settings: LaneSettings, provider: LlmProvider) -> list[ModelInfo]:
    try:
        return await provider.models()
    except LlmError:
        if settings.models:
            return []  # the back end may come later
        raise


def _served(settings: LaneSettings, listed: Sequence[ModelInfo]) -> tuple[str, ...]:
    """The models of the lane: those the settings name, else those of the back end that can do some of our work."""
    if settings.models and settings.auto_pull:
        return tuple(name for name in settings.models if _has(listed, name))
    able = (model for model in listed if model.chats or model.embeds)
    return settings.models or tuple(model.name for model in sorted(able, key=lambda model: not model.chats))


async def _as_pinned(
    settings: LaneSettings, provider: LlmProvider, models: tuple[str, ...], listed: Sequence[ModelInfo]
) -> tuple[str, ...]:
    """The models without a pin, and those whose content matches it. Where models come and go while the server runs, a
    pinned model that is not there is left out too: nobody has checked what the next pull brings."""
    kept = []
    may_come = _serves_what_it_pulls(provider)
    for model in models:
        if pin_of(settings, model) is not None and (may_come or _has(listed, model)):
            try:
                await check_pin(settings, provider, model, listed)
            except LlmError as error:
                logger.warning("lane %r does not serve model %r: %s", settings.name, model, error)
                continue
        kept.append(model)
    return tuple(kept)


def _offer(
    settings: LaneSettings, provider: LlmProvider, models: tuple[str, ...], listed: Sequence[ModelInfo], chats: int
) -> Offer:
    """What the lane takes. A model that the settings name and the back end does not list may be chatted with.

    Args:
        chats: how many at once.
    """
    abilities = {model.name: model.capabilities for model in listed if model.capabilities}
    named = ((name, served_name(name, tuple(abilities))) for name in models)
    limits = {
        kind: chats if work.slots is None else work.slots
        for kind, work in KINDS.items()
        if isinstance(provider, _TAKES.get(kind, object))
    }
    return Offer(
        abilities={name: abilities[known] for name, known in named if known is not None},
        limits=limits,
        max_input_tokens=settings.max_input_tokens,
        pulls=settings.auto_pull,
        lacks=tuple(name for name in settings.models if not _has(listed, name)) if settings.models else None,
    )


def _has(listed: Sequence[ModelInfo], model: str) -> bool:
    return served_name(model, [info.name for info in listed]) is not None


def _known_to_all(endpoint: str) -> str:
    """An endpoint as all hosts may know it: loopback and sockets are this host's own."""
    parts = urlsplit(endpoint)
    if socket_of(endpoint) is None and not _is_loopback(parts.hostname or ""):
        return masked(endpoint)
    user, at, _ = parts.netloc.rpartition("@")
    port = f":{parts.port}" if parts.port is not None else ""
    return masked(urlunsplit(parts._replace(netloc=f"{user}{at}{socket.gethostname()}{port}")))


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name
        return False
