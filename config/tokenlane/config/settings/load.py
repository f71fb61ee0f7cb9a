"""Loads settings from the command line, the environment and llm.toml.

Only command lines, the worker's settings and clients without a URL load settings; libraries receive them as values.
Every function raises `ConfigError` if a setting is wrong. The sources, strongest first:

1. `--llm` and the options of the verb,
2. the environment: `TOKENLANE_<SECTION>__<KEY>`, then the short names (see `environment`),
3. the first of these files: `--config`, TOKENLANE_CONFIG, ./llm.toml, llm.toml in the user's configuration directory,
4. the defaults.
"""

from __future__ import annotations

import shlex
import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path as File
from typing import TypedDict, Unpack

from platformdirs import user_config_path
from pydantic import SecretStr

from tokenlane.config.exit_codes import ConfigError
from tokenlane.config.host.paths import is_file
from tokenlane.config.host.pool_key_files import KeyRing, read_key_file
from tokenlane.config.host.up_registry import data_dir, running_up

from .environment import PREFIX, lane_variables, secret_in, section_variables, short_names
from .llm_option import OPTION as _LLM
from .llm_option import parse_assignment
from .merged import DEFAULT, Layer, Setting, Settings
from .read_layers import file_layer, lane_layer, text_layer
from .schema import LaneSection, provider_names
from .values import (
    NAME_RULE,
    CacheSettings,
    HookSetting,
    HookSettings,
    LaneSettings,
    LogSettings,
    PluginSettings,
    RedisSettings,
    TelemetrySettings,
    default_lane,
    is_name,
)

_CACHE_MB = 256
_TIMEOUTS = {
    "connect_timeout_s": "connect_timeout_ms",
    "first_token_timeout_s": "first_token_timeout_ms",
    "token_timeout_s": "token_timeout_ms",
    "total_timeout_s": "timeout_ms",
}


class NoPool(ConfigError):
    """No setting names a Redis server, and this user has no `tokenlane up` running."""


def read(options: Mapping[str, Setting] | None = None) -> Settings:
    """Load the settings from all sources.

    Args:
        options: settings of this process's lane from the verb's options; see `lane_options`.

    Raises:
        ConfigError: a setting is wrong. The message lists each wrong key, where it is set, and what is allowed.
    """
    short = short_names()
    file = _find_file(short.get("CONFIG"))
    sections, flat = _llm_option(short.get("LLM", ""))
    layers = [file_layer(file) if file else {}, *section_variables(short), sections]
    return Settings(layers, {**flat, **(options or {})}, file, lane_variables(short))


def find_pool(explicit: str | None = None) -> RedisSettings:
    """Return the Redis server of the pool.

    Args:
        explicit: the URL in the option `--redis`. Without it the configured server counts, and without that the server
            of this user's running `tokenlane up`.

    Raises:
        NoPool: there is no URL, no configured server and no running `tokenlane up`.
    """
    if configured := configured_redis(explicit):
        return configured
    up = running_up()
    if up is None:
        raise NoPool(
            "No pool is configured, and you have no `tokenlane up` running. Start a pool here with `tokenlane up`, or "
            "name one with --redis redis://HOST:6379, TOKENLANE_REDIS_URL, or `url` in [redis] of llm.toml."
        )
    return RedisSettings(up.url, keys_from_environment())


def configured_redis(explicit: str | None = None, *, only_command_line: bool = False) -> RedisSettings | None:
    """Return the Redis server that settings name; None if no setting names a server.

    Args:
        explicit: the URL in the option `--redis`, which overrides the settings.
        only_command_line: ignore the environment and llm.toml.

    Raises:
        ConfigError: `explicit` and `--llm` name different servers.
    """
    settings = read()
    setting = settings.get("redis", "url")
    if explicit is not None and setting.source == _LLM and setting.value != explicit:
        raise ConfigError("--redis and --llm redis.url name different servers: remove one of the two.")
    configured = None if only_command_line and setting.source != _LLM else setting.value
    url = configured if explicit is None else explicit
    return None if url is None else RedisSettings(str(url), pool_keys(settings))


def pool_keys(settings: Settings | None = None) -> KeyRing:
    """Return the keys in TOKENLANE_POOL_KEY, else those in `key_file` of [redis], else an empty ring."""
    file = _path(settings or read(), "redis", "key_file")
    given = keys_from_environment()
    return given if given.keys or file is None else read_key_file(file)


def keys_from_environment() -> KeyRing:
    """Return the keys in TOKENLANE_POOL_KEY; an empty ring if it is not set. Errors do not quote the keys."""
    text = secret_in(f"{PREFIX}POOL_KEY")
    try:
        return KeyRing.parse(text.get_secret_value()) if text else KeyRing()
    except ValueError as error:
        raise ConfigError(f"{PREFIX}POOL_KEY is wrong: {error}.") from None


def pool_name(explicit: str | None = None) -> str:
    """Return the pool's name: `explicit` from the option `--pool`, else the configured name, else `main`."""
    name = str(read().get("redis", "pool", default="main").value) if explicit is None else explicit
    if not is_name(name):
        raise ConfigError(f"Pool name {name!r}: {NAME_RULE}.")
    return name


def cache_settings() -> CacheSettings | None:
    """Return the file of this host's embedding cache and its size limit; None if the cache is off."""
    megabytes = read().document.embeddings.cache_mb
    if megabytes == 0:
        return None
    # Hosts that share a home directory do not share file locks, so each host has its own file.
    file = f"vectors-{socket.gethostname()}.sqlite3"
    return CacheSettings(data_dir() / file, (megabytes or _CACHE_MB) * 1024 * 1024)


def telemetry_settings() -> TelemetrySettings:
    """Return which spans this process records, if it exports spans."""
    section = read().document.telemetry
    return TelemetrySettings(section.tokens or "sampled", redis=bool(section.redis))


def hook_settings() -> HookSettings:
    """Return the hooks of this host's workers."""
    settings = read()
    token, request = (settings.get("advanced", f"{kind}_hook") for kind in ("token", "request"))
    return HookSettings(
        *(None if hook.value is None else HookSetting(str(hook.value), hook.source) for hook in (token, request))
    )


def plugin_settings() -> PluginSettings | None:
    """Return the directories of this host's prompt plugins; None if no setting names one."""
    settings = read()
    directory = _path(settings, "advanced", "plugins")
    if directory is None:
        return None
    if not directory.is_dir():
        source = settings.get("advanced", "plugins").source
        raise ConfigError(f"{source}: advanced.plugins names {directory}, which is no directory: create it.")
    return PluginSettings(directory, data_dir() / "plugins")


def log_settings() -> LogSettings:
    """Return how this process logs."""
    log = read().document.log
    return LogSettings(log.level, log.format or "auto")


class LaneOptions(TypedDict, total=False):
    """A verb's options that describe the lane of this process."""

    lane: str | None
    provider: str | None
    endpoint: str | None
    models: Sequence[str]
    capacity: int | None
    metrics: str | None


def lane_options(**options: Unpack[LaneOptions]) -> dict[str, Setting]:
    """Return a verb's options as settings of this process's lane."""
    given: dict[str, object] = {**options, "models": list(options.get("models", ())) or None}
    given["name"] = given.pop("lane", None)
    sources = {"name": "--lane", "models": "--model"}
    return lane_layer(
        {key: Setting(value, sources.get(key, f"--{key}")) for key, value in given.items() if value is not None}
    )


def lane_settings(**options: Unpack[LaneOptions]) -> LaneSettings:
    """Return the settings of this process's lane. `options` override all other sources.

    Raises:
        ConfigError: several lanes are configured, and no setting says which one this process serves.
    """
    settings = read(lane_options(**options))
    return _lane(settings, settings.lane_name())


def pool_settings(**options: Unpack[LaneOptions]) -> list[LaneSettings]:
    """Return the settings of every lane that this host serves: the lane that `options` describe, else all lanes.

    Raises:
        ConfigError: several lanes are configured, and `options` do not say which one they describe.
    """
    settings = read(lane_options(**options))
    return _lanes(settings, settings.lanes_served())


def provider_and_model() -> tuple[str | None, str | None]:
    """Return the provider and the model in `--llm`, for verbs that send requests and serve no lane."""
    named = {key: setting.value for key, setting in read().options.items()}
    provider, models = named.get("provider"), named.get("models")
    return (str(provider) if provider else None, str(models[0]) if isinstance(models, list) and models else None)


def configured_model_servers() -> list[LaneSettings]:
    """Return the model servers that settings name, each as a lane: those of this host's lanes, then those that only
    the sections of providers name.

    A lane with only an endpoint has the provider `builtin`; a lane with only a provider has the endpoint None.
    TOKENLANE_API_KEY applies if there is one lane or one model server.

    Raises:
        ConfigError: TOKENLANE_API_KEY is set and several lanes are configured.
    """
    settings = read()
    lanes = _lanes(settings, settings.lanes_to_choose())
    lanes = [lane for lane in lanes if lane.endpoint or lane.provider != "builtin"]
    sections = {name: settings.document.provider(name).endpoint for name in provider_names()}
    others = {name: url for name, url in sections.items() if url not in (None, *(lane.endpoint for lane in lanes))}
    alone = len(others) == 1 and not lanes
    for name, endpoint in others.items():
        variable = settings.api_key_env(endpoint, (name,)).value
        key, source = _api_key(variable, name, shared=alone)
        lanes.append(LaneSettings(default_lane(name), name, endpoint, api_key=key, api_key_from=source))
    return lanes


def names_provider(options: Mapping[str, Setting] | None = None) -> bool:
    """Whether any lane of this host has a provider that a setting names, and not the default.

    Args:
        options: settings of this process's lane from the verb's options; see `lane_options`.
    """
    settings = read(options)
    return any(settings.lane(name)["provider"].source != DEFAULT for name in settings.lanes_to_choose())


def _lanes(settings: Settings, names: Sequence[str]) -> list[LaneSettings]:
    if len(names) > 1 and secret_in(f"{PREFIX}API_KEY"):  # one key must not go to several model servers
        raise ConfigError(
            f"{PREFIX}API_KEY is for one lane, but {len(names)} are configured: {', '.join(names)}. Set api_key_env "
            "in each lane's section, or choose one lane with --lane."
        )
    return [_lane(settings, name) for name in names]


def _lane(settings: Settings, name: str) -> LaneSettings:
    lane = LaneSection.model_validate({key: setting.value for key, setting in settings.lane(name).items()})
    assert lane.provider is not None
    key, source = _api_key(lane.api_key_env, name)
    pins = {model: pin.digest for model, pin in settings.document.models.items() if pin.digest}
    return LaneSettings(
        name=name,
        provider=lane.provider,
        endpoint=lane.endpoint,
        models=tuple(lane.models or ()),
        capacity=None if lane.capacity == "auto" else lane.capacity,
        api_key=key,
        api_key_from=source,
        max_input_tokens=lane.max_input_tokens,
        auto_pull=bool(lane.auto_pull),
        keep_kv=bool(lane.keep_kv),
        metrics=lane.metrics,
        digests=pins,
        pinned_by={model: settings.leaves["models", model, "digest"].source for model in pins},
        **{stage: getattr(lane, setting) / 1000 for stage, setting in _TIMEOUTS.items()},
    )


def _api_key(variable: object, lane: str, *, shared: bool = True) -> tuple[SecretStr | None, str | None]:
    """Return a lane's API key and the variable that holds it. `shared`: TOKENLANE_API_KEY applies to this lane too."""
    source = f"{PREFIX}API_KEY"
    if shared and (key := secret_in(source)):
        return key, source
    if not isinstance(variable, str):
        return None, None
    key = secret_in(variable)
    if key is None:
        raise ConfigError(
            f"Lane {lane!r}: api_key_env names the variable {variable}, which is empty or not set: set it."
        )
    return key, variable


def _path(settings: Settings, section: str, key: str) -> File | None:
    """Return the path in a setting. In the file, a relative path starts at the file's directory."""
    setting = settings.get(section, key)
    if setting.value is None:
        return None
    folder = settings.file.parent if settings.file and setting.source.startswith(str(settings.file)) else File()
    try:
        return folder / File(str(setting.value)).expanduser()
    except RuntimeError:
        raise ConfigError(
            f"{setting.source}: {section}.{key} begins with the home directory of an unknown user: use an absolute "
            "path."
        ) from None


def _find_file(named: str | None) -> File | None:
    """Return the llm.toml to read: `named`, whether or not it exists, else the first existing default."""
    if named is not None:
        return File(named)
    files = [File("llm.toml")]
    with suppress(RuntimeError):  # this user has no home directory, as an id without a name in a container
        files.append(user_config_path("tokenlane") / "llm.toml")
    return next((file for file in files if is_file(file, "name the file with --config")), None)


def _llm_option(text: str) -> tuple[Layer, dict[str, Setting]]:
    """Return the keys of sections and the keys of this process's lane that `--llm` sets."""
    try:
        assignments = [parse_assignment(part) for part in shlex.split(text)]
    except ValueError as error:
        raise ConfigError(f"{PREFIX}LLM: {error}. Quote values as in a shell.") from None
    sections = text_layer(((path, value) for path, value in assignments if len(path) > 1), lambda _: _LLM)
    return sections, lane_layer({path[0]: Setting(value, _LLM) for path, value in assignments if len(path) == 1})
