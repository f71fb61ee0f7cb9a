"""The sections of llm.toml, their keys, and what each key may hold.

A file is read strictly: a number is not a text. Environment variables and the command line are texts: there `"4"` is a
number, and a list has commas. Every key is optional, and None if it is not set.
"""

from __future__ import annotations

import re
from functools import cache
from importlib.metadata import entry_points
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, create_model
from pydantic_core import PydanticCustomError

from .validation_messages import WHOLE, did_you_mean
from .values import no_host, no_port

BUILT_IN_PROVIDERS = ("builtin", "llamacpp", "lmstudio", "ollama", "openai", "tgi", "vllm")
"""The providers that come with tokenlane."""

TEXTS = "texts"
"""The validation context for environment variables and the command line."""


_HOST_AND_PORT = re.compile(r"(?!https?:)[A-Za-z0-9.-]+:[0-9]{1,5}(/[A-Za-z0-9./_-]*)?")


def _split(value: object, info: ValidationInfo) -> object:
    """Split a list that is written as text."""
    if info.context != TEXTS or not isinstance(value, str):
        return value
    return [part.strip() for part in value.split(",") if part.strip()]


def _installed(value: object) -> object:
    """Refuse unknown providers, here and not by a description, since distributions may register more."""
    if wrong := not_a_provider(value):
        raise PydanticCustomError(WHOLE, "{wrong}", {"wrong": wrong})
    return value


def _possible_url(url: str) -> str:
    """Refuse a URL with an impossible port, or a model server's URL with an impossible host."""
    if no_port(url):
        raise PydanticCustomError(WHOLE, "has an impossible port: use one from 1 to 65535.")
    if url.startswith("http") and no_host(url):
        raise PydanticCustomError(WHOLE, "has an impossible host: write its name, or an IPv6 address in [ ].")
    return url


def _with_scheme(value: object) -> object:
    """Refuse HOST:PORT, and show the URL that was meant. A value with a user, and so with a password, is not quoted."""
    if isinstance(value, str) and _HOST_AND_PORT.fullmatch(value):
        wrong = f"needs a scheme: did you mean http://{value}?"
        raise PydanticCustomError(WHOLE, "{wrong}", {"wrong": wrong})
    return value


Name = Annotated[
    str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.@-]{0,127}$", description="a name of A-Z a-z 0-9 _ . @ -")
]
Url = Annotated[
    str,
    Field(
        pattern=r"^(https?://[^\s/?#]|unix:///[^\s/?#])[^?#]*$",
        description="a URL, http://HOST:PORT, https://HOST:PORT or unix:///PATH, with no ? and no # in it "
        "(api_key_env names the variable of a key)",
    ),
    BeforeValidator(_with_scheme),
    AfterValidator(_possible_url),
]
RedisUrl = Annotated[
    str,
    Field(pattern=r"^(rediss?|unix)://", description="redis://HOST:6379, rediss://HOST:6379 or unix:///PATH"),
    AfterValidator(_possible_url),
]
Variable = Annotated[
    str,
    Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", description="the name of an environment variable, not the key itself"),
]

_WEEK_MS = 604_800_000
_MOST = 1_000_000_000


def _milliseconds(least: int) -> Any:
    # Bounded, since the pool's scripts calculate with it and fail beyond 64 bits.
    description = f"a whole number of milliseconds, at least {least} and at most {_WEEK_MS} (a week)"
    return Field(ge=least, le=_WEEK_MS, description=description)


Milliseconds = Annotated[int, _milliseconds(1)]
Count = Annotated[int, Field(ge=1, le=_MOST, description=f"a whole number, at least 1 and at most {_MOST}")]
_TEXT = "a text that is not empty"
Text = Annotated[str, Field(min_length=1, description=_TEXT)]
ProviderName = Annotated[str, BeforeValidator(_installed)]
YesOrNo = Annotated[bool, Field(description="true or false")]
Digest = Annotated[
    str,
    Field(
        pattern=r"^sha256:[0-9a-f]{64}$",
        description="sha256: and 64 digits of 0-9 a-f, as `tokenlane models verify` prints it",
    ),
]


class Section(BaseModel):
    """A table of the file. Unknown keys are errors; no error quotes a value, which may be secret."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class Defaults(Section):
    """`[defaults]`: the provider and model of lanes that name none. Without `[lanes]` it makes one lane."""

    provider: ProviderName | None = None
    model: Text | None = Field(None, description=f"{_TEXT}: the model's name at that provider")


class Provider(Section):
    """`[ollama]`, `[vllm]`, …: settings of every lane of that provider."""

    endpoint: Url | None = None
    timeout_ms: Milliseconds | None = None
    connect_timeout_ms: Milliseconds | None = None
    first_token_timeout_ms: Milliseconds | None = None
    token_timeout_ms: Milliseconds | None = None
    max_input_tokens: Count | None = None
    auto_pull: YesOrNo | None = None
    api_key_env: Variable | None = None


class LaneSection(Provider):
    """`[lanes.NAME]`: one lane. It may set all that its provider's section may, and wins over it."""

    provider: ProviderName | None = None
    models: (
        Annotated[
            list[Text],
            BeforeValidator(_split),
            Field(min_length=1, description="a list of model names"),
        ]
        | None
    ) = None
    capacity: Literal["auto"] | Count | None = Field(None, description='"auto" or a whole number, at least 1')


class ProcessLaneSection(LaneSection):
    """What a process sets for its own lane, outside sections."""

    name: Name | None = None
    provider: Text | None = None  # any: a process that serves no lane may name a provider that only other hosts have


class ModelSection(Section):
    """`[models."NAME"]`: settings of one model, on every lane of this host."""

    digest: Digest | None = None


class Redis(Section):
    """`[redis]`: the pool."""

    url: RedisUrl | None = None
    pool: Name | None = None
    key_file: Text | None = Field(None, description=f"{_TEXT}: a path, from the file's own folder")


class EmbeddingsSection(Section):
    """`[embeddings]`: the cache of vectors on this host."""

    cache_mb: Annotated[int, Field(ge=0, le=1_048_576, description="megabytes, 0 for no cache")] | None = None


class LimitsSection(Section):
    """`limits` of a role; they replace those of `[policy]`."""

    depth: Count | None = None
    in_flight: Count | None = None


class RouteEntry(Section):
    """An entry of a route; a key that is not set matches anything."""

    provider: Text | None = Field(None, description=f"{_TEXT}: a provider")
    model: Text | None = Field(None, description=f"{_TEXT}: a model's name")
    lane: Name | None = None


class Role(Section):
    """`[roles.NAME]`: the policy of one role, in force in the pool once it is applied."""

    route: (
        Annotated[
            list[Text | RouteEntry],
            BeforeValidator(_split),
            Field(
                min_length=1,  # an empty list would mean every lane, and look like none
                description='a list of "provider/model", "provider", "lane:NAME" or { provider, model, lane }, one at '
                "least; leave it out for every lane",
            ),
        ]
        | None
    ) = None
    limits: LimitsSection | None = Field(None, description="a table with depth and in_flight")
    weight: Count | None = None


class PolicyRules(Section):
    """`[policy]`: rules of the whole pool, in force once they are applied."""

    depth: Count | None = None
    in_flight: Count | None = None
    start_lease_ms: Annotated[int, _milliseconds(100)] | None = None
    lease_ms: Annotated[int, _milliseconds(300)] | None = None
    orphan_ms: Annotated[int, _milliseconds(8_000)] | None = None
    patience_ms: Annotated[int, _milliseconds(0)] | None = None
    max_crashes: Count | None = None
    max_starts: Count | None = None
    fallback: Literal["fasttext", "error"] | None = Field(None, description='"fasttext" or "error"')


class Document(Section):
    """A whole file. `document_type` adds the providers' sections."""

    defaults: Defaults = Defaults()
    redis: Redis = Redis()
    models: dict[Text, ModelSection] = {}
    embeddings: EmbeddingsSection = EmbeddingsSection()
    lanes: dict[Name, LaneSection] = {}
    roles: dict[Name, Role] = {}
    policy: PolicyRules = PolicyRules()

    def provider(self, name: str) -> Provider:
        """Return the section of a provider; an empty section if the file has none."""
        section = getattr(self, name, None) if name in provider_names() else None
        return section if isinstance(section, Provider) else Provider()

    @property
    def has_policy(self) -> bool:
        """Whether it sets any of the pool's policy."""
        return bool({"roles", "policy"} & self.model_fields_set)


def provider_names() -> tuple[str, ...]:
    """Return all providers that may have a section: tokenlane's, and those that other distributions register."""
    others = entry_points(group="tokenlane.providers").names
    return (*BUILT_IN_PROVIDERS, *sorted(others - {*BUILT_IN_PROVIDERS, *Document.model_fields}))


def not_a_provider(name: object) -> str:
    """Return what a provider's name must be; empty if the name is a provider's."""
    if name in BUILT_IN_PROVIDERS or name in provider_names():  # provider_names searches all distributions
        return ""
    return f"must be one of {', '.join(provider_names())}.{did_you_mean(str(name), list(provider_names()))}"


@cache
def document_type() -> type[Document]:
    """Return `Document` with a section for each provider."""
    sections: dict[str, Any] = {name: (Provider, Provider()) for name in provider_names()}
    return create_model("LlmToml", __base__=Document, **sections)
