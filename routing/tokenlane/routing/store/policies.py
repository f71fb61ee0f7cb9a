"""Reads and writes a pool's policy in Redis."""

from __future__ import annotations

from pydantic import ValidationError

from tokenlane.routing.decide.policy import Policy, PolicyChanged, PolicyRefused, PolicyUnreadable

from .keys import Keys
from .replies.values import as_bytes, as_int, as_list, as_text
from .scripts import RULES, Scripts


class Policies:
    """The policy of one pool. Redis keeps only the newest revision."""

    def __init__(self, scripts: Scripts, keys: Keys) -> None:
        self._scripts = scripts
        self._keys = keys

    async def read(self) -> Policy:
        """Read the pool's policy. A pool without a policy has the default policy, with revision 0.

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
                f"This version of tokenlane cannot read the policy of pool {self._keys.pool!r} ({wrong}): update "
                "tokenlane, or replace the policy with `tokenlane policy apply`."
            ) from None
        return policy.model_copy(update={"revision": int(as_text(revision))})

    async def write(self, policy: Policy, *, expected: int | None = None) -> int:
        """Write the pool's policy and return its revision. The revision does not change if the policy is the same.

        Args:
            expected: the revision that the caller has read; None to write in any case.

        Raises:
            PolicyChanged: the pool's policy no longer has the `expected` revision.
            PolicyRefused: the policy keeps payloads, and the pool has no key that seals them.
        """
        fields = {rule: getattr(policy, rule) for rule in RULES}
        for name, role in policy.roles.items():
            limits = role.limits.model_dump(exclude_none=True)
            fields |= {f"{limit}:{name}": value for limit, value in limits.items()}
            fields[f"weight:{name}"] = role.weight
            if role.prompt is not None:
                fields[f"prompt:{name}"] = role.prompt.model_dump_json()
        outcome, revision = as_list(
            await self._scripts.run(
                "set_policy",
                "" if expected is None else expected,
                policy.model_dump_json(exclude={"revision"}),
                int(policy.keep_payload),
                *(str(part) for field in fields.items() for part in field),
            )
        )
        if as_text(outcome) == "changed":
            raise PolicyChanged(
                f"The pool's policy has changed from revision {expected} to {as_int(revision)}: read it again."
            )
        if as_text(outcome) == "unsealed":
            raise PolicyRefused(
                f"`keep_payload` needs sealed payloads, but pool {self._keys.pool!r} has no key: give the pool a key "
                "with `tokenlane key new`, or remove `keep_payload`."
            )
        return as_int(revision)
