"""The layers of settings put together: what holds, and where each value comes from.

A layer says something of some keys, each with its source. Later layers win. What one process says of its own lane is no
part of any section: by arguments or flat `--llm` keys it wins over all of them; by the environment's short names it
stands in place of what the file says.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path as File
from typing import Any

from tokenlane.config.exit_codes import ConfigError

from .schema import Document, Lane, document_type, not_a_provider
from .toml_lines import Path
from .validation_messages import did_you_mean
from .values import TOY_PROVIDER, default_lane

DEFAULT = "default"
_TIMEOUTS_MS = {
    "timeout_ms": 3_600_000,
    "connect_timeout_ms": 5_000,
    "first_token_timeout_ms": 300_000,
    "token_timeout_ms": 60_000,
}


@dataclass(frozen=True)
class Setting:
    """A value and where it comes from: `default`, FILE:LINE, a variable's name, or an option."""

    value: object
    source: str = DEFAULT


Layer = Mapping[Path, Setting]


class Settings:
    """What holds in this process.

    Args:
        layers: the weakest first, that of the file before all others; each validated by itself.
        own: what the command line says of the lane this process serves, `name` among it.
        file: the file that was read.
        short: what short names say of that lane: they win over the file, and over nothing else.

    Attributes:
        leaves: every value that is set, by its path.
    """

    def __init__(
        self,
        layers: Iterable[Layer],
        own: Mapping[str, Setting],
        file: File | None = None,
        short: Mapping[str, Setting] | None = None,
    ) -> None:
        self.file = file
        self.own = own
        self._short = short or {}
        self._layers = tuple(layers)
        self.leaves = _merged(self._layers)
        self._over_the_file = _merged(self._layers[1:])

    @cached_property
    def document(self) -> Document:
        """All layers as one file; only what is set is set."""
        return document_type().model_validate(_nested(self.leaves))

    def get(self, *path: str, default: object = None) -> Setting:
        """One value with its source."""
        return self.leaves.get(path, Setting(default))

    @property
    def lanes(self) -> list[str]:
        """The names of the lanes that sections describe."""
        return list(self.document.lanes)

    @property
    def named(self) -> Setting | None:
        """The name that this process gives to the lane it serves, if it does."""
        return self._own("name")

    def lanes_served(self) -> list[str]:
        """The lanes of a whole host: all that there are, unless one is named.

        Raises:
            ConfigError: as `lane_name`; with several, also if something is said of one without its name.
        """
        return [self.lane_name()] if self.own or self._short or len(self.lanes) < 2 else self.lanes

    def lane_name(self) -> str:
        """The lane this process serves: the one it names, the only one there is, or the one `[defaults]` makes.

        Raises:
            ConfigError: the name is none of those there are, or there are several and it names none.
        """
        named, lanes = self.named, self.lanes
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
        """All of a lane: what its process says, else its section, else its provider's section, else the default.

        Raises:
            ConfigError: there is no such provider.
        """
        provider = self._provider(name)
        sections: tuple[Path, ...] = (("lanes", name), (str(provider.value),))
        found = {"provider": provider}
        for key in (key for key in Lane.model_fields if key not in found):
            paths = [(*section, key) for section in sections]
            if key == "models" and (*sections[0], "provider") not in self.leaves:
                paths.append(("defaults", "model"))
            fallback = Setting(_TIMEOUTS_MS.get(key, "auto" if key == "capacity" else None))
            found[key] = self._own(key, *paths) or fallback
        model = found["models"]
        if isinstance(model.value, str):
            found["models"] = Setting([model.value], model.source)
        if "api_key_env" not in self.own:
            found["api_key_env"] = self.api_key_env(found["endpoint"].value, *sections)
        return found

    def api_key_env(self, endpoint: object, *sections: Path) -> Setting:
        """The variable with the key for this endpoint.

        A key goes with the endpoint that held where it is set: where a closer section, or a stronger layer, names
        another, it is not sent there.

        Args:
            sections: where it may be set, the closest first.
        """
        keys = (
            self.leaves[*section, "api_key_env"]
            for depth, section in enumerate(sections)
            if (*section, "api_key_env") in self.leaves and self._endpoint_beside(*sections[depth:]) == endpoint
        )
        return next(keys, Setting(None))

    def _endpoint_beside(self, *sections: Path) -> object:
        """The endpoint of the first section's key: that of its layer and the weaker ones, if they know any. Of a lane's
        key it may be that of the provider which the lane has there, and not of the one that it has in this process."""
        first, *_ = sections
        layer = max(number for number, layer in enumerate(self._layers) if (*first, "api_key_env") in layer)
        for leaves in (_merged(self._layers[: layer + 1]), self.leaves):
            if first[0] == "lanes":
                provider = leaves.get((*first, "provider")) or leaves.get(("defaults", "provider"))
                sections = (first, (str(provider.value),)) if provider else (first,)
            for section in sections:
                if found := leaves.get((*section, "endpoint")):
                    return found.value
        return None

    def _provider(self, lane: str | None) -> Setting:
        paths = (("lanes", lane or "", "provider"), ("defaults", "provider"))
        provider = self._own("provider", *paths) or Setting(TOY_PROVIDER)
        if wrong := not_a_provider(provider.value):
            raise ConfigError(f"{provider.source}: provider {wrong}")
        return provider

    def _own(self, key: str, *paths: Path) -> Setting | None:
        """A key of this process's lane: what the command line says of it, else the first of the paths that is set.

        A short name of it stands for all that the file has at these paths.
        """
        if key in self.own:
            return self.own[key]
        short = self._short.get(key)
        leaves = self.leaves if short is None else self._over_the_file
        return next((leaves[path] for path in paths if path in leaves), short)


def _merged(layers: Iterable[Layer]) -> dict[Path, Setting]:
    return {path: setting for layer in layers for path, setting in layer.items()}


def _nested(leaves: Layer) -> dict[str, Any]:
    content: dict[str, Any] = {}
    for path, setting in leaves.items():
        *tables, key = map(str, path)
        table = content
        for name in tables:
            table = table.setdefault(name, {})
        if setting.value == {}:
            table.setdefault(key, {})
        else:
            table[key] = setting.value
    return content
