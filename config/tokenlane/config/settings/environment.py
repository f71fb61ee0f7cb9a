"""Reads settings from environment variables, and finds `TOKENLANE_` variables that tokenlane does not know.

`TOKENLANE_<SECTION>__<KEY>` sets a key of llm.toml, for example TOKENLANE_OLLAMA__ENDPOINT. Common settings have short
names:

    TOKENLANE_REDIS_URL   [redis] url: the pool's Redis
    TOKENLANE_POOL        [redis] pool: the pool's name (default: main)
    TOKENLANE_POOL_KEY    the pool's keys, newest first (default: those in [redis] key_file, else those in the file next
                          to the Redis socket)
    TOKENLANE_LANE        the lane's name (default: <hostname>-<provider>)
    TOKENLANE_PROVIDER    the kind of model server (default: builtin)
    TOKENLANE_ENDPOINT    the model server's URL (default: the provider's default)
    TOKENLANE_MODEL       the models that the lane serves, separated by commas
    TOKENLANE_CAPACITY    how many requests the lane serves at once
    TOKENLANE_API_KEY     the model server's bearer token; there is no option for it, since process lists show arguments
    TOKENLANE_CONFIG      the llm.toml to read
    TOKENLANE_LLM         the value of `--llm`, for commands without that option
    TOKENLANE_DASHBOARD_TOKEN  the token with which the dashboard's page acts (default: a new one at each start)
    TOKENLANE_GATEWAY_KEY  the API key that `tokenlane launch` shows a gateway
    SC_DEBUG              `llm`: log requests and answers, including prompts

A variable that is set but empty is an error: whoever set an empty TOKENLANE_REDIS_URL meant to fill it in, and the
default may be another pool.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path as File

from pydantic import BaseModel, SecretStr

from tokenlane.config.exit_codes import ConfigError
from tokenlane.config.host.paths import DASH, absolute, empty_variable

from .llm_option import parse_assignment
from .merged import Layer, Setting, Settings
from .read_layers import lane_layer, text_layer
from .schema import document_type
from .validation_messages import did_you_mean

PREFIX = "TOKENLANE_"
SHORT_NAMES = ("REDIS_URL", "POOL", "LANE", "PROVIDER", "ENDPOINT", "MODEL", "CAPACITY", "CONFIG", "LLM")
SECRETS = ("API_KEY", "POOL_KEY", "DASHBOARD_TOKEN", "GATEWAY_KEY")
_SEPARATOR = "__"
_READ_ELSEWHERE = ("HOME",)  # `up_registry` reads it
_FOR_TESTS = f"{PREFIX}TEST_"  # `make test-live` sets variables with this prefix


def short_names() -> dict[str, str]:
    """Return the values of the short names that are set, except secrets, such as `{"REDIS_URL": "redis://gpu-hub"}`.

    Raises:
        ConfigError: a short name or a secret is set but empty.
    """
    for name in (*SHORT_NAMES, *SECRETS):
        if os.environ.get(PREFIX + name) == "":
            raise empty_variable(PREFIX + name)
    return {name: os.environ[PREFIX + name] for name in SHORT_NAMES if PREFIX + name in os.environ}


def secret_in(variable: str) -> SecretStr | None:
    """Return the key in an environment variable; None if the variable is empty or not set."""
    value = os.environ.get(variable)
    return SecretStr(value) if value else None


def child_environment() -> dict[str, str]:
    """Return a copy of the environment, for the programs that a verb starts."""
    return dict(os.environ)


def debugging(subject: str) -> bool:
    """Whether the comma-separated list in SC_DEBUG contains this subject."""
    return subject in (name.strip() for name in os.environ.get("SC_DEBUG", "").split(","))


def take_command_line(config: File | None = None, llm: Sequence[str] = ()) -> None:
    """Apply `--config` and `--llm` to the rest of this process and to the commands that it starts.

    Args:
        llm: assignments, each `key=value`.

    Raises:
        ConfigError: an assignment is malformed, or `config` is relative and the current directory was deleted.
    """
    if config is not None:
        os.environ[f"{PREFIX}CONFIG"] = str(config if config == DASH else absolute(config, "--config"))
    for text in llm:
        parse_assignment(text)
    if llm:
        os.environ[f"{PREFIX}LLM"] = shlex.join(llm)


def section_variables(short: Mapping[str, str]) -> list[Layer]:
    """Return the settings of sections: a layer from short names, and a stronger one from `TOKENLANE_<SECTION>__<KEY>`.

    Raises:
        ConfigError: a variable names an unknown section or key, or its value is wrong.
    """
    names = {("redis", "url"): "REDIS_URL", ("redis", "pool"): "POOL"}
    texts = [(path, short[name]) for path, name in names.items() if name in short]
    return [text_layer(texts, lambda path: PREFIX + ("POOL" if "pool" in path else "REDIS_URL")), _long_names()]


def lane_variables(short: Mapping[str, str]) -> dict[str, Setting]:
    """Return the settings of this process's lane that come from short names.

    Raises:
        ConfigError: a value is wrong.
    """
    names = {"name": "LANE", **{key: key.upper() for key in ("provider", "endpoint", "model", "capacity")}}
    return lane_layer({key: Setting(short[name], PREFIX + name) for key, name in names.items() if name in short})


def unknown_variables(settings: Settings) -> dict[str, str]:
    """Return the `TOKENLANE_` variables that nothing reads, each with ` Did you mean …?`, or with an empty text.

    They are not errors, since other programs may use the prefix too.

    Args:
        settings: the settings in force. They may name more variables in `api_key_env`.
    """
    keys = {setting.value for path, setting in settings.leaves.items() if path[-1] == "api_key_env"}
    keys |= {setting.value for key, setting in settings.options.items() if key == "api_key_env"}
    known = [*SHORT_NAMES, *SECRETS, *_READ_ELSEWHERE]
    meant = [*known, *long_names()]
    return {
        variable: did_you_mean(variable.upper(), meant, prefix=PREFIX)
        for variable, value in sorted(os.environ.items())
        if variable.startswith(PREFIX) and value and _SEPARATOR not in variable
        if variable.removeprefix(PREFIX) not in known and variable not in keys and not variable.startswith(_FOR_TESTS)
    }


def long_names() -> list[str]:
    """Return `<SECTION>__<KEY>` for every key, except keys in tables that users name, such as `[lanes.NAME]`."""
    return [
        f"{name}{_SEPARATOR}{key}".upper()
        for name, section in document_type()()
        if isinstance(section, BaseModel)
        for key in type(section).model_fields
    ]


def _long_names() -> Layer:
    sections = [name.upper() for name in document_type().model_fields]
    texts = []
    for variable, value in os.environ.items():
        section, *rest = variable.removeprefix(PREFIX).split(_SEPARATOR)
        if not variable.startswith(PREFIX) or not rest:
            continue
        if not value:
            raise empty_variable(variable)
        if section.upper() not in sections:
            near = did_you_mean(section, sections)
            raise ConfigError(f"{variable}: unknown section {section!r}.{near} Allowed: {', '.join(sections)}.")
        texts.append((tuple(part.lower() for part in (section, *rest)), value))
    return text_layer(texts, lambda path: PREFIX + _SEPARATOR.join(map(str, path)).upper())
