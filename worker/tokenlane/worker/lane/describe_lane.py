"""Describes a lane for its announcement: its models, their abilities, and its limit for each kind of work."""

from __future__ import annotations

import ipaddress
import logging
import socket
from collections.abc import Sequence
from urllib.parse import urlsplit, urlunsplit

from tokenlane.config.host.socket_urls import socket_of
from tokenlane.config.settings.values import LaneSettings, masked_url
from tokenlane.routing.contract.errors import BadRequest, LlmError, ModelNotFound
from tokenlane.routing.contract.kinds import KINDS
from tokenlane.routing.contract.results import ModelInfo
from tokenlane.routing.contract.wire import Kind
from tokenlane.routing.decide.candidates import served_name
from tokenlane.routing.decide.lanes.offer import Announcement, Offer
from tokenlane.worker.model_management.pinned_digests import check_pin, pin_of
from tokenlane.worker.providers import Embeds, LlmProvider, Loads, Pulls

logger = logging.getLogger(__name__)

_REQUIRED_PROTOCOLS: dict[Kind, type] = {"embed": Embeds}
"""The protocol that a provider must implement for a kind of work. Kinds that are not listed need none."""


async def describe_lane(settings: LaneSettings, provider: LlmProvider, *, reachable: bool = True) -> Announcement:
    """The lane's offer, from its settings or else its server, without models whose digests differ from their pins.

    Args:
        reachable: whether the model server can be asked. If not, only the settings describe the lane.

    Raises:
        ModelNotFound: the settings name no model, and the model server neither serves one nor can pull one.
        BadRequest: the settings ask to pull models on demand, but the provider cannot pull.
        LlmError: the model server does not answer.
    """
    if settings.auto_pull and not _may_start_empty(provider):
        raise BadRequest(f"auto_pull is not supported by {settings.provider}: take it out for lane {settings.name!r}")
    try:
        listed = await provider.models() if reachable else []
    except LlmError:
        if not settings.models:
            raise
        listed = []  # the model server may start later
    models, chats = _models_to_serve(settings, listed), settings.capacity or 1
    if reachable:
        models = await _without_wrong_digests(settings, provider, models, listed)
        if not models and not _may_start_empty(provider):
            raise ModelNotFound(
                "the server serves no model that can chat: load a model, or name those it will serve with --model",
                provider=settings.provider,
                lane=settings.name,
            )
        chats = settings.capacity or await provider.capacity()
    offer = _offer(settings, provider, models, listed, chats)
    return Announcement(settings.name, settings.provider, _unique_endpoint(provider.endpoint), models, offer)


def _may_start_empty(provider: LlmProvider) -> bool:
    """Whether the lane's server may start without a model and pull models later."""
    return isinstance(provider, Pulls) and isinstance(provider, Loads)


def _models_to_serve(settings: LaneSettings, listed: Sequence[ModelInfo]) -> tuple[str, ...]:
    """The lane's models: the settings' models, or else the model server's models that chat or embed."""
    if settings.models and settings.auto_pull:
        return tuple(name for name in settings.models if _is_listed(listed, name))
    able = (model for model in listed if model.chats or model.embeds)
    return settings.models or tuple(model.name for model in sorted(able, key=lambda model: not model.chats))


async def _without_wrong_digests(
    settings: LaneSettings, provider: LlmProvider, models: tuple[str, ...], listed: Sequence[ModelInfo]
) -> tuple[str, ...]:
    """The models without a pin, and the pinned models whose digest matches. If models come and go while the server
    runs, a missing pinned model is left out too, since the next pull is not checked yet."""
    kept = []
    may_come = _may_start_empty(provider)
    for model in models:
        if pin_of(settings, model) is not None and (may_come or _is_listed(listed, model)):
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
    """The lane's offer, with `chats` chats at once. A model that only the settings list is assumed to chat."""
    abilities = {model.name: model.capabilities for model in listed if model.capabilities}
    named = ((name, served_name(name, tuple(abilities))) for name in models)
    limits = {
        kind: chats if work.slots is None else work.slots
        for kind, work in KINDS.items()
        if isinstance(provider, _REQUIRED_PROTOCOLS.get(kind, object))
    }
    return Offer(
        abilities={name: abilities[known] for name, known in named if known is not None},
        limits=limits,
        max_input_tokens=settings.max_input_tokens,
        pulls=settings.auto_pull,
        lacks=tuple(name for name in settings.models if not _is_listed(listed, name)) if settings.models else None,
    )


def _is_listed(listed: Sequence[ModelInfo], model: str) -> bool:
    return served_name(model, [info.name for info in listed]) is not None


def _unique_endpoint(endpoint: str) -> str:
    """The endpoint with this host's name in place of a loopback address or a socket, to be unique in the pool."""
    parts = urlsplit(endpoint)
    if socket_of(endpoint) is None and not _is_loopback(parts.hostname or ""):
        return masked_url(endpoint)
    user, at, _ = parts.netloc.rpartition("@")
    port = f":{parts.port}" if parts.port is not None else ""
    return masked_url(urlunsplit(parts._replace(netloc=f"{user}{at}{socket.gethostname()}{port}")))


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:  # a host name
        return False
