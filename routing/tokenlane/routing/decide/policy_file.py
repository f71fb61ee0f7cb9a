"""Converts a policy from and to the sections `[roles]`, `[aliases]`, `[policy]` and `[failed]` of llm.toml."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable

from tokenlane.config.cli.plain_text import escaped
from tokenlane.config.exit_codes import ConfigError
from tokenlane.config.settings import schema
from tokenlane.config.settings.merged import Settings
from tokenlane.config.settings.validation_messages import did_you_mean
from tokenlane.config.settings.values import is_name

from .policy import Candidate, Limits, Policy, PromptPolicy, RolePolicy

LANE_PREFIX = "lane:"
"""What a route entry begins with that names a lane."""
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


def policy_of(settings: Settings) -> Policy:
    """The policy that these settings describe. A rule that they leave out has its default.

    Raises:
        ConfigError: an entry of a route names an unknown provider, an invalid lane name or an empty model name.
    """
    document = settings.document
    roles = {
        name: RolePolicy(
            route=_route(settings, name, "route", role.route or ()),
            limits=Limits(**role.limits.model_dump() if role.limits else {}),
            weight=role.weight or 1,
            continue_with=role.continue_with or "same-model",
            swapped_from=None
            if role.swapped_from is None
            else _route(settings, name, "swapped_from", role.swapped_from),
            prompt=PromptPolicy(**role.prompt.model_dump(exclude_none=True)) if role.prompt else None,
        )
        for name, role in document.roles.items()
    }
    rules = document.policy.model_dump(exclude_none=True)
    keep_payload = bool(document.failed.keep_payload)
    return Policy(roles=roles, aliases=dict(document.aliases), keep_payload=keep_payload, **rules)


def as_toml(policy: Policy) -> str:
    """The complete policy as sections of llm.toml. Reading them gives the same policy again."""
    rules = policy.model_dump(exclude={"revision", "roles", "aliases", "keep_payload"})
    lines = ["[policy]", *(f"{rule} = {_value(value)}" for rule, value in rules.items())]
    lines += ["", "[failed]", f"keep_payload = {_value(policy.keep_payload)}"]
    if policy.aliases:  # in their order, since the first that matches counts
        lines += ["", "[aliases]"]
        lines += [f"{section_key(pattern)} = {_value(role)}" for pattern, role in policy.aliases.items()]
    for name, role in sorted(policy.roles.items()):
        lines += ["", f"[roles.{section_key(name)}]"]
        if role.route:
            lines += ["route = [", *(f"  {route_entry(candidate)}," for candidate in role.route), "]"]
        limits = role.limits.model_dump(exclude_none=True)
        if limits:
            lines.append(f"limits = {_table(limits)}")
        lines += [f"weight = {role.weight}", f"continue_with = {_value(role.continue_with)}"]
        if role.swapped_from is not None:
            lines.append(f"swapped_from = [{', '.join(map(route_entry, role.swapped_from))}]")
        if role.prompt is not None:
            lines.append(f"prompt = {_table(role.prompt.model_dump())}")
    return "\n".join(lines) + "\n"


def _route(
    settings: Settings, role: str, key: str, entries: Iterable[str | schema.RouteEntry]
) -> tuple[Candidate, ...]:
    return tuple(_candidate(entry, settings.get("roles", role, key).source) for entry in entries)


def _candidate(entry: str | schema.RouteEntry, source: str) -> Candidate:
    if isinstance(entry, schema.RouteEntry):
        return Candidate(**entry.model_dump())
    place, slash, model = entry.partition("/")
    lane = place.removeprefix(LANE_PREFIX) if place.startswith(LANE_PREFIX) else None
    names = list(schema.provider_names())
    if lane is not None and not is_name(lane):
        wrong = f"the route names lane {lane!r}, which is not a valid name."
    elif lane is None and place not in names:
        wrong = f"the route names provider {place!r}, which does not exist.{did_you_mean(place, names)}"
    elif slash and not model:
        wrong = f"the route entry {entry!r} ends without a model name."
    else:
        return Candidate(provider=None if lane else place, lane=lane, model=model or None)
    raise ConfigError(
        f"{source}: {wrong} Write "
        '"PROVIDER/MODEL", "PROVIDER" or "lane:NAME"; for a model of any provider write { model = "NAME" }.'
    )


def route_entry(candidate: Candidate) -> str:
    """A candidate as an entry of a `route` in llm.toml."""
    provider, model, lane = candidate.provider, candidate.model, candidate.lane
    if (provider is None) == (lane is None) or (provider and provider not in schema.provider_names()):
        return _table(candidate.model_dump(exclude_none=True))
    place = provider or f"{LANE_PREFIX}{lane}"
    return _value(f"{place}/{model}" if model else place)


def _table(values: dict[str, object]) -> str:
    return f"{{ {', '.join(f'{key} = {_value(value)}' for key, value in values.items())} }}"


def section_key(name: str) -> str:
    """A name as it is written in a section's heading: quoted if TOML requires quotes."""
    return name if _BARE_KEY.fullmatch(name) else _value(name)


def _value(value: object) -> str:
    # Strings and numbers are written alike in JSON and TOML, except for characters that only TOML escapes.
    return escaped(json.dumps(value, ensure_ascii=False), toml=True)
