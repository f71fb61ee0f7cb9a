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
from tokenlane.worker.model_management.unsupported_commands import unsupported_commands
from tokenlane.worker.providers import Embeds, KeepsKv, LlmProvider, Loads, MayLoad, Pulls
from tokenlane.worker.providers.server_names import lists_all_models

logger = logging.getLogger(__name__)

_REQUIRED_PROTOCOLS: dict[Kind, type] = {"embed": Embeds}
"""The protocol that a provider must implement to do a kind of work. Kinds that are not listed need none."""


async def describe_lane(settings: LaneSettings, provider: LlmProvider, *, reachable: bool = True) -> Announcement:
    """Describe the lane from its settings, and from its model server where the settings leave something open.

    Left out are models that the model server does not have, and models whose digests differ from their pinned digests.

    Args:
        reachable: whether to ask the model server. If not, only the settings describe the lane, and its limit of chats
            is 0 unless they set it.

    Raises:
        ModelNotFound: the lane has no model to serve, and the model server cannot pull one.
        BadRequest: the settings ask to pull models on demand, but the provider cannot pull.
        LlmError: the model server does not answer.
    """
    if settings.auto_pull and not _may_start_empty(provider):
        raise BadRequest(
            f"Lane {settings.name!r} sets auto_pull, but {settings.provider} cannot pull models: remove the setting."
        )
    if settings.keep_kv and not isinstance(provider, KeepsKv):
        raise BadRequest(
            f"Lane {settings.name!r} sets keep_kv, but {settings.provider} cannot keep a KV cache: remove the setting."
        )
    try:
        answer = await provider.models() if reachable else None
    except LlmError:
        if not settings.models:
            raise
        answer = None  # the model server may start later
    listed = answer or []
    knows_missing = answer is not None and lists_all_models(settings.provider)
    models, chats = _models_to_serve(settings, listed, only_listed=knows_missing), settings.capacity or 0
    not_as_pinned: dict[str, str] = {}
    if reachable:
        models, not_as_pinned = await _without_wrong_digests(settings, provider, models, listed)
        if not models and not _may_start_empty(provider):
            raise ModelNotFound(
                f"The model server does not have {', '.join(map(repr, settings.models))}: start it with that model."
                if settings.models
                else "The model server has no model that can chat or embed: load a model, or name one with --model.",
                provider=settings.provider,
                lane=settings.name,
            )
        chats = settings.capacity or await provider.capacity()
    offer = _offer(settings, provider, models, listed, chats).model_copy(update={"not_as_pinned": not_as_pinned})
    return Announcement(settings.name, settings.provider, _unique_endpoint(provider.endpoint), models, offer)


def _may_start_empty(provider: LlmProvider) -> bool:
    """Whether the model server can start without a model and pull and load models later."""
    return isinstance(provider, Pulls) and isinstance(provider, Loads) and not isinstance(provider, MayLoad)


def _models_to_serve(settings: LaneSettings, listed: Sequence[ModelInfo], *, only_listed: bool) -> tuple[str, ...]:
    """The models in the settings; if there are none, the model server's models that can chat or embed.

    Args:
        only_listed: whether the model server does not have the models that it does not list.
    """
    if settings.models and (settings.auto_pull or only_listed):
        return tuple(name for name in settings.models if _is_listed(listed, name))
    able = (model for model in listed if model.chats or model.embeds)
    return settings.models or tuple(model.name for model in sorted(able, key=lambda model: not model.chats))


async def _without_wrong_digests(
    settings: LaneSettings, provider: LlmProvider, models: tuple[str, ...], listed: Sequence[ModelInfo]
) -> tuple[tuple[str, ...], dict[str, str]]:
    """The models without those whose digest differs from their pinned digest; and the models that are left out although
    the model server has them, each with the reason.

    If the model server can pull models while it runs, pinned models that it does not have are left out too: their
    digests can only be checked after the pull.
    """
    kept, not_as_pinned = [], {}
    may_come = _may_start_empty(provider)
    for model in models:
        if pin_of(settings, model) is not None and (may_come or _is_listed(listed, model)):
            try:
                await check_pin(settings, provider, model, listed)
            except LlmError as error:
                logger.warning("lane %r does not serve model %r: %s", settings.name, model, error)
                if _is_listed(listed, model):
                    not_as_pinned[model] = error.message
                continue
        kept.append(model)
    return tuple(kept), not_as_pinned


def _offer(
    settings: LaneSettings, provider: LlmProvider, models: tuple[str, ...], listed: Sequence[ModelInfo], chats: int
) -> Offer:
    """Create the offer of a lane that runs `chats` chats at once. A model unknown to its server is assumed to chat."""
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
        unsupported=unsupported_commands(provider),
    )


def _is_listed(listed: Sequence[ModelInfo], model: str) -> bool:
    return served_name(model, [info.name for info in listed]) is not None


def _unique_endpoint(endpoint: str) -> str:
    """Make the endpoint unique in the pool: this host's name replaces a loopback address or a socket."""
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
