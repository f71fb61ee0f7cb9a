"""The settings in force: all sources merged, each value with the source it comes from.

A `Layer` holds what one source sets, key by key; later layers win. What a process sets for its own lane is in no
layer: options and flat `--llm` keys win over all layers, short names of the environment over the file alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path as File

from tokenlane.config.exit_codes import ConfigError

from .schema import Document, LaneSection, document_type, not_a_provider
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
    """A value and its source: `default`, FILE:LINE, the name of a variable, or an option."""

    value: object
    source: str = DEFAULT


Layer = Mapping[Path, Setting]


class Settings:
    """The settings in force in this process.

    Args:
        layers: the weakest first, the file's layer before all others; each is valid by itself.
        options: what the command line sets for the lane that this process serves, its `name` among them.
        file: the file that was read.
        short: what short names set for that lane.

    Attributes:
        leaves: every value that a layer sets, by its path.
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
        """All layers as one file; only keys that a layer sets are set."""
        return document_type().model_validate(nested((path, setting.value) for path, setting in self.leaves.items()))

    def get(self, *path: str, default: object = None) -> Setting:
        """Return the setting at a path."""
        return self.leaves.get(path, Setting(default))

    @property
    def lanes(self) -> list[str]:
        """The names of the lanes that have a section."""
        return list(self.document.lanes)

    def lanes_served(self) -> list[str]:
        """Return the lanes that a whole host serves: all of them, unless the process describes one.

        Raises:
            ConfigError: as `lane_name`; with several lanes, also if the process describes one without its name.
        """
        return [self.lane_name()] if self.options or self._short or len(self.lanes) < 2 else self.lanes

    def lanes_to_choose(self) -> list[str]:
        """Return the named lane, else all lanes that have a section, else the lane of `[defaults]`.

        Raises:
            ConfigError: as `lane_name`.
        """
        return [self.lane_name()] if self._of_process("name") or not self.lanes else self.lanes

    def lane_name(self) -> str:
        """Return the lane that this process serves: the lane it names, the only lane, or the lane of `[defaults]`.

        Raises:
            ConfigError: no lane has that name, or there are several and the process names none.
        """
        named, lanes = self._of_process("name"), self.lanes
        listed = f"{self.file or 'The configuration'} has the lanes {', '.join(lanes)}"
        if named is None:
            if len(lanes) > 1:
                raise ConfigError(f"{listed}: say which one with --lane NAME.")
            return lanes[0] if lanes else default_lane(str(self._provider(None).value))
        name = str(named.value)
        if lanes and name not in lanes:
            raise ConfigError(f"{listed}, and none called {name!r}.{did_you_mean(name, lanes)}")
        return name

    def lane(self, name: str) -> dict[str, Setting]:
        """Return all settings of a lane: each from its process, else its section, its provider's section, the defaults.

        Raises:
            ConfigError: there is no such provider.
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
        """Return the variable that holds the key for this endpoint.

        A key belongs to the endpoint that was in force where the key is set. Where a closer section, or a stronger
        layer, names another endpoint, the key is not sent there.

        Args:
            sections: the sections that may set it, the closest first.
        """
        keys = (
            self.leaves[*section, "api_key_env"]
            for depth, section in enumerate(sections)
            if (*section, "api_key_env") in self.leaves and self._endpoint_of_key(*sections[depth:]) == endpoint
        )
        return next(keys, Setting(None))

    def _endpoint_of_key(self, *sections: Path) -> object:
        """The endpoint for which the first section sets its key: that of the key's layer and the weaker layers, else
        that of all layers. A lane's key goes by the provider that its section names, not the process's options."""
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
        if wrong := not_a_provider(provider.value):
            raise ConfigError(f"{provider.source}: provider {wrong}")
        return provider

    def _of_process(self, key: str, *paths: Path) -> Setting | None:
        """A key of this process's lane: from the command line, else the first of the paths that is set.

        A short name replaces whatever the file sets at these paths.
        """
        if key in self.options:
            return self.options[key]
        short = self._short.get(key)
        leaves = self.leaves if short is None else self._without_file
        return next((leaves[path] for path in paths if path in leaves), short)


def _merged(layers: Iterable[Layer]) -> dict[Path, Setting]:
    return {path: setting for layer in layers for path, setting in layer.items()}
