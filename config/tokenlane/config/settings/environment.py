"""Environment variables as settings, and the variables with our prefix that nothing reads.

`TOKENLANE_<SECTION>__<KEY>` sets a key of llm.toml, as in TOKENLANE_OLLAMA__ENDPOINT. The short names are:

    TOKENLANE_REDIS_URL   [redis] url: the pool's Redis
    TOKENLANE_POOL        [redis] pool: the pool's name (default: main)
    TOKENLANE_POOL_KEY    the pool's keys, newest first (default: [redis] key_file, else the file next to the socket)
    TOKENLANE_LANE        the lane's name (default: <hostname>-<provider>)
    TOKENLANE_PROVIDER    the kind of model server (default: builtin)
    TOKENLANE_ENDPOINT    the model server's URL (default: the provider's)
    TOKENLANE_MODEL       the models the lane serves, comma separated
    TOKENLANE_CAPACITY    requests the lane serves at once
    TOKENLANE_API_KEY     the model server's bearer token; a variable only, since arguments show in process lists
    TOKENLANE_CONFIG      the file to read
    TOKENLANE_LLM         the value of `--llm`, for a command without that option
    SC_DEBUG              `llm`: log requests and answers, prompts included

A variable that is set but empty is refused: somebody meant to fill in an empty TOKENLANE_REDIS_URL, and the default
may be another pool.
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
SECRETS = ("API_KEY", "POOL_KEY")
_SEPARATOR = "__"
_READ_ELSEWHERE = ("HOME",)  # by `up_registry`
_FOR_TESTS = f"{PREFIX}TEST_"  # `make test-live` sets these to what it installed


def short_names() -> dict[str, str]:
    """Return the short names that are set, secrets left out, as in `{"REDIS_URL": "redis://gpu-hub"}`.

    Raises:
        ConfigError: a short name, or a secret, is set but empty.
    """
    for name in (*SHORT_NAMES, *SECRETS):
        if os.environ.get(PREFIX + name) == "":
            raise empty_variable(PREFIX + name)
    return {name: os.environ[PREFIX + name] for name in SHORT_NAMES if PREFIX + name in os.environ}


def secret_in(variable: str) -> SecretStr | None:
    """Return the value of a variable that holds a key; None if the variable is not set, or empty."""
    value = os.environ.get(variable)
    return SecretStr(value) if value else None


def debugging(subject: str) -> bool:
    """Whether SC_DEBUG, a comma-separated list, contains this subject."""
    return subject in (name.strip() for name in os.environ.get("SC_DEBUG", "").split(","))


def take_command_line(config: File | None = None, llm: Sequence[str] = ()) -> None:
    """Apply `--config` and `--llm` to the rest of this process and to the commands it starts.

    Raises:
        ConfigError: a text of `llm` is not `key=value`; or `config` is relative, and the current directory was deleted.
    """
    if config is not None:
        os.environ[f"{PREFIX}CONFIG"] = str(config if config == DASH else absolute(config, "--config"))
    for text in llm:
        parse_assignment(text)
    if llm:
        os.environ[f"{PREFIX}LLM"] = shlex.join(llm)


def section_variables(short: Mapping[str, str]) -> list[Layer]:
    """The settings of sections: those of short names, then the stronger `TOKENLANE_<SECTION>__<KEY>`.

    Raises:
        ConfigError: a variable names an unknown section or key.
    """
    names = {("redis", "url"): "REDIS_URL", ("redis", "pool"): "POOL"}
    texts = [(path, short[name]) for path, name in names.items() if name in short]
    return [text_layer(texts, lambda path: PREFIX + ("POOL" if "pool" in path else "REDIS_URL")), _long_names()]


def lane_variables(short: Mapping[str, str]) -> dict[str, Setting]:
    """The settings of this process's lane that short names give.

    Raises:
        ConfigError: a value is wrong.
    """
    names = {"name": "LANE", **{key: key.upper() for key in ("provider", "endpoint", "model", "capacity")}}
    return lane_layer({key: Setting(short[name], PREFIX + name) for key, name in names.items() if name in short})


def unknown_variables(settings: Settings) -> dict[str, str]:
    """Return the variables with our prefix that nothing reads, each with ` Did you mean …?` or an empty text. They are
    no errors: other programs may use the prefix too.

    Args:
        settings: the settings in force; a variable named by an `api_key_env` is read.
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
    """The names `<SECTION>__<KEY>` of all keys but those in tables by name, such as `[lanes.NAME]`."""
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
