"""Reads settings: command line, environment and llm.toml. Command lines and the worker's settings call it; libraries
never do.

Each wins over those after it:

1. `--llm`, and a verb's own options,
2. the environment: `TOKENLANE_<SECTION>__<KEY>`, then the short names in `environment`,
3. llm.toml: that of `--config`, else of TOKENLANE_CONFIG, else ./llm.toml, else that of the user's configuration
   directory,
4. the defaults.
"""

from __future__ import annotations

import shlex
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path as File
from typing import TypedDict, Unpack

from platformdirs import user_config_path
from pydantic import SecretStr

from tokenlane.config.exit_codes import ConfigError
from tokenlane.config.host.paths import is_file
from tokenlane.config.host.pool_key_files import KeyRing, read_key_file
from tokenlane.config.host.up_registry import announced_url, data_dir
from tokenlane.config.settings.values import (
    NAME_RULE,
    CacheSettings,
    LaneSettings,
    RedisSettings,
    default_lane,
    is_name,
)

from .environment import PREFIX, key_in, lane_variables, section_variables, short_names
from .llm_option import OPTION as _LLM
from .llm_option import assignment
from .merged import DEFAULT, Layer, Setting, Settings
from .read_layers import file_layer, lane_layer, text_layer
from .schema import Lane, provider_names

_CACHE_MB = 256


class NoPool(ConfigError):
    """No Redis was named and no `tokenlane up` of this user runs."""


def find_pool(explicit: str | None = None) -> RedisSettings:
    """Return the pool's Redis: `explicit`, else the configured one, else that of this user's running `tokenlane up`.

    Raises:
        NoPool: if there is none of the three.
        ConfigError: if the URL is not one of Redis, or the configuration is wrong.
    """
    found = configured_redis(explicit)
    if found is not None:
        return found
    announced = announced_url()
    if announced is None:
        raise NoPool(
            "No pool to talk to. Start one here with `tokenlane up`, or name one with --redis redis://host:6379, "
            "TOKENLANE_REDIS_URL, or url in the section [redis] of llm.toml."
        )
    return RedisSettings(announced, given_keys())


def configured_redis(explicit: str | None = None, *, only_command_line: bool = False) -> RedisSettings | None:
    """Return the Redis that `explicit`, `--llm`, the environment or the file names, or None.

    Args:
        only_command_line: leave out environment and file.

    Raises:
        ConfigError: as `find_pool`; or `explicit` and `--llm` name different ones.
    """
    settings = read()
    found = settings.get("redis", "url")
    if explicit is not None and found.source == _LLM and found.value != explicit:
        raise ConfigError("--redis and --llm redis.url name different servers: leave out one of them.")
    configured = None if only_command_line and found.source != _LLM else found.value
    url = configured if explicit is None else explicit
    return None if url is None else RedisSettings(str(url), pool_keys(settings))


def pool_keys(settings: Settings | None = None) -> KeyRing:
    """Return the keys in TOKENLANE_POOL_KEY, else those in the key file that [redis] names; else none.

    Raises:
        ConfigError: they cannot be used.
    """
    file = _key_file(settings or read())
    given = given_keys()
    return given if given.keys or file is None else read_key_file(file)


def given_keys() -> KeyRing:
    """Return the keys in TOKENLANE_POOL_KEY; none if it is not set.

    Raises:
        ConfigError: they cannot be used. The error does not quote them.
    """
    text = short_names().pool_key
    try:
        return KeyRing.parse(text.get_secret_value()) if text else KeyRing()
    except ValueError as error:
        raise ConfigError(f"TOKENLANE_POOL_KEY holds {error}.") from None


def pool_name(explicit: str | None = None) -> str:
    """Return the pool's name: `explicit`, else the configured one, else `main`.

    Raises:
        ConfigError: it is none.
    """
    name = str(read().get("redis", "pool", default="main").value) if explicit is None else explicit
    if not is_name(name):
        raise ConfigError(f"Pool name {name!r}: {NAME_RULE}.")
    return name


def cache_settings() -> CacheSettings | None:
    """Return where this host keeps vectors, and how many; None if it is to keep none.

    Raises:
        ConfigError: something is set wrongly.
    """
    megabytes = read().document.embeddings.cache_mb
    if megabytes == 0:
        return None
    # Named by host: a home directory may be shared by many, which must not share the file's lock.
    file = f"vectors-{socket.gethostname()}.sqlite3"
    return CacheSettings(data_dir() / file, (megabytes or _CACHE_MB) * 1024 * 1024)


class LaneOptions(TypedDict, total=False):
    """What a verb's options say of the process's lane."""

    lane: str | None
    provider: str | None
    endpoint: str | None
    models: Sequence[str]
    capacity: int | None


def own_lane(**options: Unpack[LaneOptions]) -> dict[str, Setting]:
    """What a verb's options say of the process's lane, as settings."""
    given = {
        "name": Setting(options.get("lane"), "--lane"),
        "provider": Setting(options.get("provider"), "--provider"),
        "endpoint": Setting(options.get("endpoint"), "--endpoint"),
        "models": Setting(list(options.get("models", ())) or None, "--model"),
        "capacity": Setting(options.get("capacity"), "--capacity"),
    }
    return lane_layer({key: setting for key, setting in given.items() if setting.value is not None})


def lane_settings(**options: Unpack[LaneOptions]) -> LaneSettings:
    """Return this process's lane, what is given here winning over everything.

    Raises:
        ConfigError: if a value cannot be used, or there are several lanes and none is named.
    """
    settings = read(own_lane(**options))
    return _lane_settings(settings, settings.lane_name())


def pool_settings(**options: Unpack[LaneOptions]) -> list[LaneSettings]:
    """Return every lane this host is to serve: the one that is named, else all of the configuration.

    Raises:
        ConfigError: as `lane_settings`; or there are several lanes, and something is said of one without its name.
    """
    settings = read(own_lane(**options))
    names = settings.lanes_served()
    _one_for_the_key(names)
    return [_lane_settings(settings, name) for name in names]


def asked_for() -> tuple[str | None, str | None]:
    """The provider and the model that `--llm` names, for a verb that asks and serves no lane."""
    named = {key: setting.value for key, setting in read().own.items() if setting.source == _LLM}
    models = named.get("models")
    provider = named.get("provider")
    return (str(provider) if provider else None, str(models[0]) if isinstance(models, list) and models else None)


def configured_back_ends() -> list[LaneSettings]:
    """Return the back ends that somebody named, as lanes: this host's lanes, then those of providers' sections.

    The provider is `builtin` where only an endpoint was named, the endpoint None where only a provider was.
    TOKENLANE_API_KEY is for this host's only lane, or for the only back end there is.

    Raises:
        ConfigError: something is set wrongly, or TOKENLANE_API_KEY is set and there are several lanes.
    """
    settings = read()
    names = [settings.lane_name()] if settings.named or not settings.lanes else settings.lanes
    _one_for_the_key(names)
    lanes = [_lane_settings(settings, name) for name in names]
    lanes = [lane for lane in lanes if lane.endpoint or lane.provider != "builtin"]
    sections = {name: settings.document.provider(name).endpoint for name in provider_names()}
    others = {name: at for name, at in sections.items() if at not in (None, *(lane.endpoint for lane in lanes))}
    alone = len(others) == 1 and not lanes
    for name, endpoint in others.items():
        named = settings.api_key_env(endpoint, (name,)).value
        key, variable = _api_key(named, name) if alone else _named_key(named, name)
        lanes.append(LaneSettings(default_lane(name), name, endpoint, api_key=key, api_key_from=variable))
    return lanes


def names_provider(own: Mapping[str, Setting] | None = None) -> bool:
    """Whether anything but a default says which provider this host's lanes have.

    Args:
        own: what a verb's options say of this process's lane.
    """
    settings = read(own)
    names = [settings.lane_name()] if settings.named or not settings.lanes else settings.lanes
    return any(settings.lane(name)["provider"].source != DEFAULT for name in names)


def _lane_settings(settings: Settings, name: str) -> LaneSettings:
    values = {key: setting.value for key, setting in settings.lane(name).items()}
    lane = Lane.model_validate(values)
    limits = {
        stage: milliseconds / 1000
        for stage, milliseconds in {
            "connect_timeout_s": lane.connect_timeout_ms,
            "first_token_timeout_s": lane.first_token_timeout_ms,
            "token_timeout_s": lane.token_timeout_ms,
            "total_timeout_s": lane.timeout_ms,
        }.items()
        if milliseconds is not None
    }
    assert lane.provider is not None
    key, variable = _api_key(lane.api_key_env, name)
    return LaneSettings(
        name=name,
        provider=lane.provider,
        endpoint=lane.endpoint,
        models=tuple(lane.models or ()),
        capacity=None if lane.capacity == "auto" else lane.capacity,
        api_key=key,
        api_key_from=variable,
        max_input_tokens=lane.max_input_tokens,
        auto_pull=bool(lane.auto_pull),
        digests={model: pin.digest for model, pin in settings.document.models.items() if pin.digest},
        **limits,
    )


def _one_for_the_key(lanes: Sequence[str]) -> None:
    """Refuse to send one key to several back ends."""
    if len(lanes) > 1 and short_names().api_key is not None:
        raise ConfigError(
            f"TOKENLANE_API_KEY is for one lane, and there are {', '.join(lanes)}: use api_key_env, or --lane."
        )


def _api_key(variable: object, lane: str) -> tuple[SecretStr | None, str | None]:
    """The key, and the variable that holds it."""
    key = short_names().api_key
    return _named_key(variable, lane) if key is None else (key, f"{PREFIX}API_KEY")


def _named_key(variable: object, lane: str) -> tuple[SecretStr | None, str | None]:
    if not isinstance(variable, str):
        return None, None
    found = key_in(variable)
    if found is None:
        raise ConfigError(
            f"Lane {lane!r}: its api_key_env names {variable}, which is not set, or empty: export {variable}=…"
        )
    return found, variable


def _key_file(settings: Settings) -> File | None:
    setting = settings.get("redis", "key_file")
    if setting.value is None:
        return None
    folder = settings.file.parent if settings.file and setting.source.startswith(str(settings.file)) else File()
    try:
        return folder / File(str(setting.value)).expanduser()
    except RuntimeError:
        raise ConfigError(
            f"{setting.source}: redis.key_file begins with a home directory nobody knows here: give the whole path."
        ) from None


def read(own: Mapping[str, Setting] | None = None) -> Settings:
    """Read all layers.

    Args:
        own: what a verb's options say of this process's lane.

    Raises:
        ConfigError: something is set wrongly; every wrong key is named with its place and what is allowed.
    """
    short = short_names()
    file = find_file(short.config)
    sections, flat = _command_line(short.llm)
    layers = [file_layer(file) if file else {}, *section_variables(short), sections]
    return Settings(layers, {**flat, **(own or {})}, file, lane_variables(short))


def find_file(named: File | None = None) -> File | None:
    """Return the file to read: `named`, whether it is there or not, else the nearest that is there.

    Raises:
        ConfigError: it cannot be told whether one is there.
    """
    if named is not None:
        return named
    user = user_config_path("tokenlane") / "llm.toml"
    return next((file for file in (File("llm.toml"), user) if is_file(file, "name the file with --config")), None)


def _command_line(text: str) -> tuple[Layer, dict[str, Setting]]:
    """The sections that `--llm` sets, and the keys of this process's lane."""
    try:
        assignments = [assignment(part) for part in shlex.split(text)]
    except ValueError as error:
        raise ConfigError(f"{PREFIX}LLM: {error}; it is written as on a command line.") from None
    sections = text_layer(((path, value) for path, value in assignments if len(path) > 1), lambda _: _LLM)
    return sections, lane_layer({path[0]: Setting(value, _LLM) for path, value in assignments if len(path) == 1})
