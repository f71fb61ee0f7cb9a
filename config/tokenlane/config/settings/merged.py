"""The settings in force: all sources merged, and for each value the source that set it.

A `Layer` holds the keys that one source sets, and overrides the layers before it. Settings that a process makes for its
lane are in no layer: options and `--llm` keys without a section override all layers, and short names of environment
variables override only the file.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path as File

from tokenlane.config.exit_codes import ConfigError

from .schema import Document, LaneSection, document_type, provider_error
from .toml_lines import Path, nested
from .validation_messages import did_you_mean
from .values import TOY_PROVIDER, default_lane

DEFAULT = "default"
_LANE_DEFAULTS: dict[str, object] = {
    "capacity": "auto",
    "timeout_ms": 3_600_000,
    "connect_timeout_ms": 5_000,
    "first_token_timeout_ms": 300_000,
    "token_timeout_ms": 60_000,
}


@dataclass(frozen=True)
class Setting:
    """A value and its source: FILE:LINE, an environment variable, an option, or `default`."""

    value: object
    source: str = DEFAULT


Layer = Mapping[Path, Setting]


class Settings:
    """The settings in force in this process.

    Args:
        layers: the layers, each of them valid, from the weakest to the strongest. The first is the file's.
        options: settings from the command line for the lane that this process serves, including its `name`.
        file: the file that was read, if any.
        short: settings for that lane from environment variables with short names, such as `TOKENLANE_MODEL`.

    Attributes:
        leaves: every setting in the layers, by path.
    """

    def __init__(
        self,
        layers: Iterable[Layer],
        options: Mapping[str, Setting],
        file: File | None = None,
        short: Mapping[str, Setting] | None = None,
    ) -> None:
        self.file = file
        self.options = options
        self._short = short or {}
        self._layers = tuple(layers)
        self.leaves = _merged(self._layers)
        self._without_file = _merged(self._layers[1:])

    @cached_property
    def document(self) -> Document:
        """All layers merged into one document, in which only the keys of a layer are set."""
        return document_type().model_validate(nested((path, setting.value) for path, setting in self.leaves.items()))

    def get(self, *path: str, default: object = None) -> Setting:
        """Return the setting at a path; `default` if no layer sets it."""
        return self.leaves.get(path, Setting(default))

    @property
    def lanes(self) -> list[str]:
        """The lanes with a section `[lanes.NAME]`."""
        return list(self.document.lanes)

    def lanes_served(self) -> list[str]:
        """Return the lanes that this host serves: all lanes with a section, unless the process describes one lane.

        Raises:
            ConfigError: as for `lane_name`; or the process describes one of several lanes and does not name it.
        """
        return [self.lane_name()] if self.options or self._short or len(self.lanes) < 2 else self.lanes

    def lanes_to_choose(self) -> list[str]:
        """Return the lane that the process names, else all lanes with a section, else the lane of `[defaults]`.

        Raises:
            ConfigError: as for `lane_name`.
        """
        return [self.lane_name()] if self._of_process("name") or not self.lanes else self.lanes

    def lane_name(self) -> str:
        """Return the lane that this process serves: the lane it names, the only lane, or the lane of `[defaults]`.

        Raises:
            ConfigError: the named lane does not exist, or there are several lanes and the process names none.
        """
        named, lanes = self._of_process("name"), self.lanes
        listed = f"{self.file or 'The configuration'} defines the lanes {', '.join(lanes)}"
        if named is None:
            if len(lanes) > 1:
                raise ConfigError(f"{listed}: choose one with --lane NAME.")
            return lanes[0] if lanes else default_lane(str(self._provider(None).value))
        name = str(named.value)
        if lanes and name not in lanes:
            raise ConfigError(f"{listed}, but no lane {name!r}.{did_you_mean(name, lanes)}")
        return name

    def lane(self, name: str) -> dict[str, Setting]:
        """Return all settings of a lane. Each comes from the process, else from the lane's section, else from the
        section of the lane's provider, else from the defaults.

        Raises:
            ConfigError: the lane's provider does not exist.
        """
        provider = self._provider(name)
        sections: tuple[Path, ...] = (("lanes", name), (str(provider.value),))
        settings = {"provider": provider}
        for key in (key for key in LaneSection.model_fields if key != "provider"):
            paths = [(*section, key) for section in sections]
            if key == "models" and (*sections[0], "provider") not in self.leaves:
                paths.append(("defaults", "model"))
            settings[key] = self._of_process(key, *paths) or Setting(_LANE_DEFAULTS.get(key))
        model = settings["models"]
        if isinstance(model.value, str):
            settings["models"] = Setting([model.value], model.source)
        if "api_key_env" not in self.options:
            settings["api_key_env"] = self.api_key_env(settings["endpoint"].value, *sections)
        return settings

    def api_key_env(self, endpoint: object, *sections: Path) -> Setting:
        """Return the variable that holds the API key for this endpoint.

        A key belongs to the endpoint that is in force where the key is set. If a closer section or a stronger layer
        names another endpoint, that endpoint does not get the key.

        Args:
            sections: the sections that may name the variable, the closest first.
        """
        keys = (
            self.leaves[*section, "api_key_env"]
            for depth, section in enumerate(sections)
            if (*section, "api_key_env") in self.leaves and self._endpoint_of_key(*sections[depth:]) == endpoint
        )
        return next(keys, Setting(None))

    def _endpoint_of_key(self, *sections: Path) -> object:
        """Return the endpoint that the key of the first section belongs to.

        It is the endpoint in the key's layer and the weaker layers, else the endpoint in all layers. For a lane, the
        provider of its section counts, and not the provider in the process's options.
        """
        first, *_ = sections
        layer = max(number for number, layer in enumerate(self._layers) if (*first, "api_key_env") in layer)
        for leaves in (_merged(self._layers[: layer + 1]), self.leaves):
            if first[0] == "lanes":
                provider = leaves.get((*first, "provider")) or leaves.get(("defaults", "provider"))
                sections = (first, (str(provider.value),)) if provider else (first,)
            for section in sections:
                if endpoint := leaves.get((*section, "endpoint")):
                    return endpoint.value
        return None

    def _provider(self, lane: str | None) -> Setting:
        paths = (("lanes", lane or "", "provider"), ("defaults", "provider"))
        provider = self._of_process("provider", *paths) or Setting(TOY_PROVIDER)
        if wrong := provider_error(provider.value):
            raise ConfigError(f"{provider.source}: provider {wrong}")
        return provider

    def _of_process(self, key: str, *paths: Path) -> Setting | None:
        """Return a setting of this process's lane: from the command line, else from the first path that is set.

        A short name overrides what the file sets at these paths.
        """
        if key in self.options:
            return self.options[key]
        short = self._short.get(key)
        leaves = self.leaves if short is None else self._without_file
        return next((leaves[path] for path in paths if path in leaves), short)


def _merged(layers: Iterable[Layer]) -> dict[Path, Setting]:
    return {path: setting for layer in layers for path, setting in layer.items()}
