"""Pinned models: checks that a model has the digest that the settings require."""

from __future__ import annotations

from collections.abc import Sequence

from tokenlane.config.settings.values import LaneSettings
from tokenlane.routing.contract.errors import BadRequest, DigestMismatch
from tokenlane.routing.contract.results import ModelInfo
from tokenlane.routing.decide.candidates import served_name
from tokenlane.worker.providers import LlmProvider, Verifies


def pin_of(settings: LaneSettings, model: str) -> str | None:
    """The digest that the model must have; None if it is not pinned."""
    name = served_name(model, tuple(settings.digests))
    return None if name is None else settings.digests[name]


def pin_source(settings: LaneSettings, model: str) -> str | None:
    """The file and line that pin the model; None if it is not pinned."""
    name = served_name(model, tuple(settings.digests))
    return None if name is None else settings.pinned_by.get(name)


async def check_pin(
    settings: LaneSettings,
    provider: LlmProvider,
    model: str,
    listed: Sequence[ModelInfo] = (),
    *,
    was_pulled: bool = False,
) -> None:
    """Return if the model is not pinned, or has the pinned digest.

    Args:
        listed: the models that the model server lists. A digest in this list is not read again.
        was_pulled: whether the model was just pulled, for the advice in the error.

    Raises:
        DigestMismatch: the model has a different digest.
        ModelNotFound: the model server does not have the model.
        BadRequest: the provider cannot read digests.
    """
    pinned = pin_of(settings, model)
    if pinned is None:
        return
    name = served_name(model, [info.name for info in listed])
    digest = next((info.digest for info in listed if info.name == name), None)
    if digest is None or not digest.startswith("sha256:"):
        if not isinstance(provider, Verifies):
            raise BadRequest(
                f"{settings.provider} cannot report a model's digest, so its models cannot be pinned: remove "
                f'[models."{model}"] digest, or serve the model with another provider.',
                lane=settings.name,
                model=model,
            )
        digest = await provider.verify(model)
    if digest != pinned:
        pin_name, source = served_name(model, tuple(settings.digests)), pin_source(settings, model)
        where = f'digest in [models."{pin_name}"]{f" ({source})" if source else ""}'
        advice = (
            f"the pull brought other content, so the lane does not offer the model: pull a version that has the pinned "
            f"digest or, to serve this content, correct {where} and restart the worker"
            if was_pulled
            else f"pull the model with `tokenlane models pull`, or correct {where} and restart the worker"
        )
        raise DigestMismatch(
            f"The model's digest is {digest}, but {pinned} is pinned: {advice}.",
            provider=settings.provider,
            lane=settings.name,
            model=model,
        )
