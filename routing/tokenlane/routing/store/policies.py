"""Reads and writes a pool's policy in Redis."""

from __future__ import annotations

from pydantic import ValidationError

from tokenlane.routing.decide.policy import Policy, PolicyChanged, PolicyUnreadable

from .keys import Keys
from .replies.values import as_bytes, as_int, as_list, as_text
from .scripts import RULES, Scripts


class Policies:
    """The policy of one pool. Redis keeps only the newest revision."""

    def __init__(self, scripts: Scripts, keys: Keys) -> None:
        self._scripts = scripts
        self._keys = keys

    async def read(self) -> Policy:
        """The pool's policy; the default, with revision 0, if the pool has none.

        Raises:
            PolicyUnreadable: this version cannot read the pool's policy.
        """
        revision, document = as_list(await self._scripts.ask("HMGET", self._keys.policy, "revision", "document"))
        if document is None:
            return Policy()
        try:
            policy = Policy.model_validate_json(as_bytes(document))
        except ValidationError as error:
            wrong = ", ".join(".".join(map(str, part["loc"])) for part in error.errors())
            raise PolicyUnreadable(
                f"pool {self._keys.pool!r} has a policy that this version cannot read ({wrong}): apply a policy again "
                "with `tokenlane policy apply`, or update tokenlane"
            ) from None
        return policy.model_copy(update={"revision": int(as_text(revision))})

    async def write(self, policy: Policy, *, expected: int | None = None) -> int:
        """Write the pool's policy and return its revision. Writing an equal policy does not change the revision.

        Args:
            expected: the revision that the pool's policy must have before the write; None: any.

        Raises:
            PolicyChanged: the pool's policy has another revision.
        """
        fields = {rule: getattr(policy, rule) for rule in RULES}
        for name, role in policy.roles.items():
            limits = role.limits.model_dump(exclude_none=True)
            fields |= {f"{limit}:{name}": value for limit, value in limits.items()}
            fields[f"weight:{name}"] = role.weight
        outcome, revision = as_list(
            await self._scripts.run(
                "set_policy",
                "" if expected is None else expected,
                policy.model_dump_json(exclude={"revision"}),
                *(str(part) for field in fields.items() for part in field),
            )
        )
        if as_text(outcome) == "changed":
            raise PolicyChanged(f"the pool's policy now has revision {as_int(revision)}, not {expected}")
        return as_int(revision)
