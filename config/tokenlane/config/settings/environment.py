"""Environment variables: what each sets, and which of them nothing reads.

`TOKENLANE_<SECTION>__<KEY>` is a key of llm.toml, such as TOKENLANE_OLLAMA__ENDPOINT. And there are short names:

    TOKENLANE_REDIS_URL   [redis] url: the pool's Redis
    TOKENLANE_POOL        [redis] pool: the pool's name (default: main)
    TOKENLANE_POOL_KEY    the pool's keys, the newest first (default: [redis] key_file, else the file beside the socket)
    TOKENLANE_LANE        the lane's name (default: <hostname>-<provider>)
    TOKENLANE_PROVIDER    the kind of back end (default: builtin)
    TOKENLANE_ENDPOINT    the back end's URL (default: the provider's own)
    TOKENLANE_MODEL       the models it serves, comma separated
    TOKENLANE_CAPACITY    requests at once
    TOKENLANE_API_KEY     what the back end wants as a bearer token; only here, since arguments show in process lists
    TOKENLANE_CONFIG      the file to read
    TOKENLANE_LLM         what `--llm` says, for a command that has no such option
    SC_DEBUG              `llm`: log requests and answers, prompts included

A variable that is read and empty is refused: an empty TOKENLANE_REDIS_URL is one that was to be filled in, and what
else would be found may be another pool.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path as File

from pydantic import BaseModel, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from tokenlane.config.exit_codes import ConfigError
from tokenlane.config.host.paths import DASH, absolute, empty_variable

from .llm_option import assignment
from .merged import Layer, Setting, Settings
from .read_layers import lane_layer, text_layer
from .schema import document_type
from .validation_messages import did_you_mean

PREFIX = "TOKENLANE_"
_SEPARATOR = "__"
_READ_ELSEWHERE = ("HOME",)  # by `running`
_OF_TESTS = f"{PREFIX}TEST_"  # where `make test-live` finds what it installed


class ShortNames(BaseSettings):
    """What the variables with short names hold."""

    # Errors must not quote the input: it may be a key.
    model_config = SettingsConfigDict(env_prefix=PREFIX, hide_input_in_errors=True)

    redis_url: str | None = None
    pool_key: SecretStr | None = None
    pool: str | None = None
    lane: str | None = None
    provider: str | None = None
    endpoint: str | None = None
    model: str | None = None
    capacity: str | None = None
    api_key: SecretStr | None = None
    config: File | None = None
    llm: str = ""


class _Debug(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="SC_", env_ignore_empty=True)

    debug: str = ""


def short_names() -> ShortNames:
    """Read the variables with short names.

    Raises:
        ConfigError: a value cannot be used, or is empty.
    """
    for variable in (f"{PREFIX}{name.upper()}" for name in ShortNames.model_fields):
        if os.environ.get(variable) == "":
            raise empty_variable(variable)
    try:
        return ShortNames()
    except ValidationError as error:
        wrong = "; ".join(f"{PREFIX}{str(e['loc'][0]).upper()}: {e['msg']}" for e in error.errors())
        raise ConfigError(f"Environment: {wrong}") from None


def debugging(subject: str) -> bool:
    """Whether SC_DEBUG, a comma separated list, names the subject."""
    return subject in (name.strip() for name in _Debug().debug.split(","))


def take_command_line(config: File | None = None, llm: Sequence[str] = ()) -> None:
    """Let `--config` and `--llm` hold for the rest of this process, and for the commands it starts.

    Raises:
        ConfigError: one of `llm` is not `key=value`; or `config` is in a current directory that is not there.
    """
    if config is not None:
        os.environ[f"{PREFIX}CONFIG"] = str(config if config == DASH else absolute(config, "--config"))
    for text in llm:
        assignment(text)
    if llm:
        os.environ[f"{PREFIX}LLM"] = shlex.join(llm)


def forget_empty_keys() -> None:
    """Unset those of the two variables for keys that are empty.

    An `up` of an older version, which may still run when this one is installed, starts its workers with both set, and
    leaves the one empty that its pool does not use.
    """
    for variable in (f"{PREFIX}POOL_KEY", f"{PREFIX}REDIS{_SEPARATOR}KEY_FILE"):
        if os.environ.get(variable) == "":
            del os.environ[variable]


def key_in(variable: str) -> SecretStr | None:
    """Return the key that the environment variable of this name holds; None if it is not set or empty."""
    value = os.environ.get(variable)
    return SecretStr(value) if value else None


def given_secrets() -> list[str]:
    """The names of the variables that hold secrets of ours and are set."""
    short = short_names()
    secrets = {"API_KEY": short.api_key, "POOL_KEY": short.pool_key}
    return [f"{PREFIX}{name}" for name, secret in secrets.items() if secret is not None]


def section_variables(short: ShortNames) -> list[Layer]:
    """What variables set in sections: short names, and over them those with a section.

    Raises:
        ConfigError: there is no such section, or no such key in it.
    """
    return [_aliases(short), _variables()]


def lane_variables(short: ShortNames) -> dict[str, Setting]:
    """What variables say of this process's lane."""
    texts = {key: getattr(short, key) for key in ("lane", "provider", "endpoint", "model", "capacity")}
    return lane_layer(
        {
            "name" if key == "lane" else key: Setting(text, f"{PREFIX}{key.upper()}")
            for key, text in texts.items()
            if text is not None
        }
    )


def unknown_variables(settings: Settings) -> dict[str, str]:
    """The variables with our prefix that nothing reads, each with ` Did you mean …?` or nothing. They are no error: the
    prefix is not ours alone.

    Args:
        settings: all that holds; a variable that an `api_key_env` names is read.
    """
    keys = {setting.value for path, setting in settings.leaves.items() if path[-1] == "api_key_env"}
    keys |= {setting.value for key, setting in settings.own.items() if key == "api_key_env"}
    short = [*(name.upper() for name in ShortNames.model_fields), *_READ_ELSEWHERE]
    known = {PREFIX + name for name in short}
    meant = [*short, *_section_keys()]
    return {
        variable: did_you_mean(variable, meant, prefix=PREFIX)
        for variable, value in sorted(os.environ.items())
        if variable.startswith(PREFIX) and value and _SEPARATOR not in variable
        if variable.upper() not in known and variable not in keys and not variable.startswith(_OF_TESTS)
    }


def _aliases(short: ShortNames) -> Layer:
    named = {("redis", "url"): short.redis_url, ("redis", "pool"): short.pool}
    texts = [(path, value) for path, value in named.items() if value is not None]
    return text_layer(texts, lambda path: PREFIX + ("REDIS_URL" if path[-1] == "url" else "POOL"))


def _variables() -> Layer:
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
            raise ConfigError(f"{variable}: no section is called {section!r}.{near} Allowed: {', '.join(sections)}.")
        texts.append((tuple(part.lower() for part in (section, *rest)), value))
    return text_layer(texts, lambda path: PREFIX + _SEPARATOR.join(map(str, path)).upper())


def _section_keys() -> list[str]:
    """The keys of sections as variables without the prefix, but for those of tables by name."""
    sections = dict(document_type()())
    return [
        f"{name}{_SEPARATOR}{key}".upper()
        for name, section in sections.items()
        if isinstance(section, BaseModel)
        for key in type(section).model_fields
    ]
