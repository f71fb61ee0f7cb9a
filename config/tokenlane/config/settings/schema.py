"""The sections of llm.toml, their keys, and the allowed values of each key.

In a file every value must have its type: `"4"` is not a number. Environment variables and the command line only have
texts: there `4` is read as a number, and commas separate the items of a list. Every key is optional, and None if it is
not set.
"""

from __future__ import annotations

import re
from functools import cache
from importlib.metadata import entry_points
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, create_model
from pydantic_core import PydanticCustomError

from .validation_messages import COMPLETE, did_you_mean
from .values import has_impossible_host, has_impossible_port, redis_url_error

BUILT_IN_PROVIDERS = ("builtin", "llamacpp", "lmstudio", "ollama", "openai", "tgi", "vllm")
"""The providers that come with tokenlane."""

TEXTS = "texts"
"""The validation context for environment variables and the command line."""


_HOST_AND_PORT = re.compile(r"(?!https?:)[A-Za-z0-9.-]+:[0-9]{1,5}(/[A-Za-z0-9./_-]*)?")


def _split(value: object, info: ValidationInfo) -> object:
    """Split a text with commas into a list, if it comes from the environment or the command line."""
    if info.context != TEXTS or not isinstance(value, str):
        return value
    return [part.strip() for part in value.split(",") if part.strip()]


def _known_provider(value: object) -> object:
    """Refuse unknown providers. A fixed description cannot list them, since installed packages may add providers."""
    if wrong := provider_error(value):
        raise PydanticCustomError(COMPLETE, "{wrong}", {"wrong": wrong})
    return value


def _possible_url(url: str) -> str:
    """Refuse an impossible port, and an impossible host."""
    if has_impossible_port(url):
        raise PydanticCustomError(COMPLETE, "has an impossible port: use one from 1 to 65535.")
    if url.startswith("http") and has_impossible_host(url):
        raise PydanticCustomError(COMPLETE, "has an impossible host: write its name, or an IPv6 address in [ ].")
    return url


def _possible_redis_url(url: str) -> str:
    """Refuse an impossible port, and a URL of Sentinels that is incomplete or malformed."""
    if wrong := redis_url_error(url):
        raise PydanticCustomError(COMPLETE, "{wrong}.", {"wrong": wrong})
    return url


def _with_scheme(value: object) -> object:
    """Refuse HOST:PORT without a scheme, and suggest the URL. A value with a user, and so a password, is not quoted."""
    if isinstance(value, str) and _HOST_AND_PORT.fullmatch(value):
        wrong = f"needs a scheme: did you mean http://{value}?"
        raise PydanticCustomError(COMPLETE, "{wrong}", {"wrong": wrong})
    return value


Name = Annotated[
    str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.@-]{0,127}$", description="a name of A-Z a-z 0-9 _ . @ -")
]
Url = Annotated[
    str,
    Field(
        pattern=r"^(https?://[^\s/?#]|unix:///[^\s/?#])[^?#]*$",
        description="http://HOST:PORT, https://HOST:PORT or unix:///PATH, without ? and # "
        "(for an API key, use api_key_env)",
    ),
    BeforeValidator(_with_scheme),
    AfterValidator(_possible_url),
]
RedisUrl = Annotated[
    str,
    Field(
        pattern=r"^(rediss?(\+sentinel)?|unix)://",
        description="redis://HOST:6379, rediss://HOST:6379, unix:///PATH or redis+sentinel://HOST:26379/SERVICE",
    ),
    AfterValidator(_possible_redis_url),
]
Variable = Annotated[
    str,
    Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", description="the name of an environment variable, not its value"),
]

_WEEK_MS = 604_800_000
_MOST = 1_000_000_000


def _milliseconds(least: int) -> Any:
    # The limit keeps sums of times in the pool's scripts below 64 bits.
    description = f"a whole number of milliseconds, at least {least} and at most {_WEEK_MS} (a week)"
    return Field(ge=least, le=_WEEK_MS, description=description)


Milliseconds = Annotated[int, _milliseconds(1)]
Count = Annotated[int, Field(ge=1, le=_MOST, description=f"a whole number, at least 1 and at most {_MOST}")]
_TEXT = "a non-empty string"
Text = Annotated[str, Field(min_length=1, description=_TEXT)]
ProviderName = Annotated[str, BeforeValidator(_known_provider)]
YesOrNo = Annotated[bool, Field(description="true or false")]


def _sha256(printed_by: str) -> Any:
    description = f"sha256: and 64 hexadecimal digits, as `{printed_by}` prints it"
    return Field(pattern=r"^sha256:[0-9a-f]{64}$", description=description)


Digest = Annotated[str, _sha256("tokenlane models verify")]
PluginDigest = Annotated[str, _sha256("tokenlane plugins check FILE")]


class Section(BaseModel):
    """A table of the file. An unknown key is an error. Errors do not quote values, which may be secret."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class Defaults(Section):
    """`[defaults]`: the provider and model of lanes that set none. Without `[lanes]`, they make the only lane."""

    provider: ProviderName | None = None
    model: Text | None = Field(None, description=f"{_TEXT}: the name of a model")


class Provider(Section):
    """`[ollama]`, `[vllm]` and so on: settings of all lanes of one provider."""

    endpoint: Url | None = None
    timeout_ms: Milliseconds | None = None
    connect_timeout_ms: Milliseconds | None = None
    first_token_timeout_ms: Milliseconds | None = None
    token_timeout_ms: Milliseconds | None = None
    max_input_tokens: Count | None = None
    auto_pull: YesOrNo | None = None
    keep_kv: YesOrNo | None = None
    api_key_env: Variable | None = None


class LaneSection(Provider):
    """`[lanes.NAME]`: one lane. It may set all keys of its provider's section, and overrides them."""

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
    metrics: Text | None = Field(None, description=f"{_TEXT}: HOST or HOST:PORT, at which the worker serves metrics")


class ProcessLaneSection(LaneSection):
    """Settings of this process's lane that do not come from a section: options, `--llm` keys and short names."""

    name: Name | None = None
    provider: Text | None = (
        None  # may be unknown here: a process that serves no lane may name a provider of other hosts
    )


class ModelSection(Section):
    """`[models."NAME"]`: settings of one model on all lanes of this host."""

    digest: Digest | None = None


class Redis(Section):
    """`[redis]`: the pool's Redis server, name and keys."""

    url: RedisUrl | None = None
    pool: Name | None = None
    key_file: Text | None = Field(None, description=f"{_TEXT}: a path, relative to the directory of this file")


class EmbeddingsSection(Section):
    """`[embeddings]`: this host's cache of embeddings."""

    cache_mb: (
        Annotated[
            int,
            Field(
                ge=0, le=1_048_576, description="a whole number of megabytes, at most 1048576; 0 turns the cache off"
            ),
        ]
        | None
    ) = None


class TelemetrySection(Section):
    """`[telemetry]`: which spans processes of this host record, if they export spans."""

    tokens: Literal["off", "sampled", "all"] | None = Field(None, description='"off", "sampled" or "all"')
    redis: YesOrNo | None = None


HookName = Annotated[
    str,
    Field(
        pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*$",
        description='"package.module:function", the name of a function that this Python can import',
    ),
]


class AdvancedSection(Section):
    """`[advanced]`: what extends the workers of this host."""

    token_hook: HookName | None = None
    request_hook: HookName | None = None
    plugins: Text | None = Field(None, description=f"{_TEXT}: a directory, relative to the directory of this file")


class LogSection(Section):
    """`[log]`: how the processes of this host log."""

    level: Literal["debug", "info", "warning", "error"] | None = Field(
        None, description='"debug", "info", "warning" or "error"'
    )
    format: Literal["auto", "text", "json"] | None = Field(None, description='"auto", "text" or "json"')


class LimitsSection(Section):
    """`limits` of a role, which override those of `[policy]`."""

    depth: Count | None = None
    in_flight: Count | None = None


class RouteEntry(Section):
    """An entry of a route. A key that is not set matches everything."""

    provider: Text | None = Field(None, description=f"{_TEXT}: the name of a provider")
    model: Text | None = Field(None, description=f"{_TEXT}: the name of a model")
    lane: Name | None = None


class PromptSection(Section):
    """`[roles.NAME.prompt]`: the plugin that changes the prompts of a role's chats."""

    plugin: PluginDigest
    on_error: Literal["fail", "skip"] | None = Field(None, description='"fail" or "skip"')


class Role(Section):
    """`[roles.NAME]`: the policy for one role. It takes effect when `tokenlane policy apply` writes it to the pool."""

    route: (
        Annotated[
            list[Text | RouteEntry],
            BeforeValidator(_split),
            Field(
                min_length=1,  # an empty list would look like no lane, and mean every lane
                description='a list with at least one "provider/model", "provider", "lane:NAME" or '
                "{ provider, model, lane }; leave it out to allow every lane",
            ),
        ]
        | None
    ) = None
    limits: LimitsSection | None = Field(None, description="a table with depth and in_flight")
    weight: Count | None = None
    continue_with: Literal["same-model", "any"] | None = Field(None, description='"same-model" or "any"')
    swapped_from: Annotated[list[Text | RouteEntry], BeforeValidator(_split)] | None = Field(
        None, description="a list as in route, which `tokenlane models swap` writes"
    )
    prompt: PromptSection | None = Field(None, description="a table with plugin and on_error")


class PolicyRules(Section):
    """`[policy]`: rules for the whole pool. They take effect when `tokenlane policy apply` writes them to the pool."""

    depth: Count | None = None
    in_flight: Count | None = None
    start_lease_ms: Annotated[int, _milliseconds(100)] | None = None
    lease_ms: Annotated[int, _milliseconds(300)] | None = None
    orphan_ms: Annotated[int, _milliseconds(8_000)] | None = None
    patience_ms: Annotated[int, _milliseconds(0)] | None = None
    max_crashes: Count | None = None
    max_starts: Count | None = None
    fallback: Literal["fasttext", "error"] | None = Field(None, description='"fasttext" or "error"')


class Failed(Section):
    """`[failed]`: what the pool keeps of failed requests. It takes effect when `tokenlane policy apply` writes it."""

    keep_payload: YesOrNo | None = None


class Document(Section):
    """A whole llm.toml, without the sections of providers, which `document_type` adds."""

    defaults: Defaults = Defaults()
    redis: Redis = Redis()
    models: dict[Text, ModelSection] = {}
    embeddings: EmbeddingsSection = EmbeddingsSection()
    log: LogSection = LogSection()
    telemetry: TelemetrySection = TelemetrySection()
    advanced: AdvancedSection = AdvancedSection()
    lanes: dict[Name, LaneSection] = {}
    roles: dict[Name, Role] = {}
    policy: PolicyRules = PolicyRules()
    failed: Failed = Failed()
    aliases: dict[Text, Name] = {}

    def provider(self, name: str) -> Provider:
        """Return a provider's section; an empty section if the file does not have it."""
        section = getattr(self, name, None) if name in provider_names() else None
        return section if isinstance(section, Provider) else Provider()

    @property
    def has_policy(self) -> bool:
        """Whether the file has a section of the pool's policy."""
        return bool({"roles", "aliases", "policy", "failed"} & self.model_fields_set)


def provider_names() -> tuple[str, ...]:
    """Return the names of all providers: those of tokenlane, and those that installed packages add."""
    others = entry_points(group="tokenlane.providers").names
    return (*BUILT_IN_PROVIDERS, *sorted(others - {*BUILT_IN_PROVIDERS, *Document.model_fields}))


def provider_error(name: object) -> str:
    """Return what is wrong with a provider's name, as the end of a sentence; empty if the provider exists."""
    if (
        name in BUILT_IN_PROVIDERS or name in provider_names()
    ):  # the second check is slow: it searches all installed packages
        return ""
    return f"must be one of {', '.join(provider_names())}.{did_you_mean(str(name), list(provider_names()))}"


@cache
def document_type() -> type[Document]:
    """Return `Document` with a section for each provider."""
    sections: dict[str, Any] = {name: (Provider, Provider()) for name in provider_names()}
    return create_model("LlmToml", __base__=Document, **sections)
