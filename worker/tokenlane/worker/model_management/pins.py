"""Pinned models: what their content must be."""

from __future__ import annotations

from collections.abc import Sequence

from tokenlane.config.settings.values import LaneSettings
from tokenlane.routing.contract.errors import BadRequest, DigestMismatch
from tokenlane.routing.contract.results import ModelInfo
from tokenlane.routing.decide.candidates import served_name
from tokenlane.worker.providers import LlmProvider, Verifies


def pin_of(settings: LaneSettings, model: str) -> str | None:
    """The digest a model must have; None if it is not pinned."""
    name = served_name(model, tuple(settings.digests))
    return None if name is None else settings.digests[name]


async def check_pin(
    settings: LaneSettings, provider: LlmProvider, model: str, listed: Sequence[ModelInfo] = ()
) -> None:
    """Accept a model that is not pinned, or is as it was pinned.

    Args:
        listed: models as the back end lists them; where the digest is among that, it is not asked for again.

    Raises:
        DigestMismatch: it is another one.
        ModelNotFound: it is not there.
        BadRequest: the provider cannot tell.
    """
    pinned = pin_of(settings, model)
    if pinned is None:
        return
    name = served_name(model, [info.name for info in listed])
    digest = next((info.digest for info in listed if info.name == name), None)
    if digest is None or not digest.startswith("sha256:"):
        if not isinstance(provider, Verifies):
            raise BadRequest(
                f"{settings.provider} does not tell what a model's content is, so none can be pinned there: take "
                f'[models."{model}"] digest out, or serve it by another provider',
                lane=settings.name,
                model=model,
            )
        digest = await provider.verify(model)
    if digest != pinned:
        raise DigestMismatch(
            f"the model is {digest}, and {pinned} is pinned: pull the pinned one again, or change the digest in "
            f'[models."{model}"]',
            provider=settings.provider,
            lane=settings.name,
            model=model,
        )
