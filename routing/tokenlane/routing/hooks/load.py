"""Imports the hooks that settings name."""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Callable
from operator import attrgetter
from pathlib import PurePath
from typing import Any

from tokenlane.config.exit_codes import ConfigError
from tokenlane.config.settings.values import HookSetting, HookSettings

from .functions import Hooks


def load_hooks(settings: HookSettings) -> Hooks:
    """Import the hooks.

    Raises:
        ConfigError: a hook cannot be imported, or is not a function of its kind. The message names the setting, and
            says what to do.
    """
    loaded: dict[str, Callable[..., Any]] = {}
    for kind, setting in (("token", settings.token), ("request", settings.request)):
        if setting is None:
            continue
        loaded[kind] = _imported(setting, f"{kind}_hook")
        try:
            Hooks(**loaded)
        except TypeError as error:
            raise ConfigError(f"{setting.source}: {error}. docs/hooks.md shows both kinds of hooks.") from None
    return Hooks(**loaded)


def _imported(setting: HookSetting, key: str) -> Callable[..., Any]:
    """The function that a setting names."""
    module_name, _, path = setting.name.partition(":")
    named = f"{setting.source}: advanced.{key} is {setting.name!r}"
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise ConfigError(f"{named}, which needs the module {error.name!r}: install it for {_python()}.") from None
        raise ConfigError(
            f"{named}, but {_python()} has no module {error.name!r}: install its package there, or add the folder of "
            "the module to PYTHONPATH."
        ) from None
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        frames = traceback.extract_tb(error.__traceback__)
        place = f" in line {frames[-1].lineno} of {PurePath(frames[-1].filename).name}"
        raise ConfigError(f"{named}, but importing the module raised {type(error).__name__}{place}.") from error
    try:
        found: Callable[..., Any] = attrgetter(path)(module)
    except AttributeError:
        raise ConfigError(f"{named}, but the module {module_name!r} has no {path!r}: correct the name.") from None
    return found


def _python() -> str:
    return sys.executable or "this Python"
