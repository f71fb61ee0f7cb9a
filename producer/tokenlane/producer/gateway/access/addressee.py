"""What a model's name means: a role, an alias of one, or a model."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tokenlane.config.settings.values import is_name
from tokenlane.producer.gateway.failures import Refused
from tokenlane.routing.decide.policy import Policy, role_of

ROLE_PREFIX = "role:"
"""What a model's name begins with that names a role."""
DEFAULT_ROLE = "default"
_ANY = {"", "default", "auto", "tokenlane"}
"""Names of no model, with which clients ask for whatever there is."""


@dataclass(frozen=True)
class Addressee:
    """Whom a request is for. `model`: None for whichever model the role's route names."""

    role: str
    model: str | None = None


def addressee(name: str, role: str | None, policy: Policy) -> Addressee:
    """Whom a client means by a model's name.

    Args:
        role: the caller's role, for names that name none.

    Raises:
        Refused: the name is not a valid one.
    """
    if len(name) > 256 or re.search(r"[\x00-\x1f\x7f\ud800-\udfff]", name):
        raise Refused(400, "bad_request", "`model` is not a name: it is too long or has control characters.")
    if name.startswith(ROLE_PREFIX):
        named = name.removeprefix(ROLE_PREFIX)
        if not is_name(named):
            raise Refused(404, "model_not_found", f"{name!r} is not a valid name of a role.", param="model")
        return Addressee(named)
    if (alias := role_of(name, policy)) is not None:
        return Addressee(alias)
    if name in _ANY:
        return Addressee(role or DEFAULT_ROLE)
    return Addressee(role or DEFAULT_ROLE, name)
