"""The registry of providers: creates a lane's provider by name."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points

from tokenlane.config.exit_codes import ConfigError
from tokenlane.config.settings.values import LaneSettings

from .ollama.provider import OllamaProvider
from .openai.llamacpp import BuiltinProvider, LlamaCppProvider
from .openai.lmstudio import LmStudioProvider
from .openai.provider import OpenAiProvider
from .openai.tgi import TgiProvider
from .openai.vllm import VllmProvider
from .protocol import LlmProvider

ENTRY_POINTS = "tokenlane.providers"

ProviderFactory = Callable[[LaneSettings], LlmProvider]


class ProviderRegistry:
    """The factories of providers, by name. A factory that `add` registers takes precedence over an entry point of the
    same name. An entry point is loaded only when a lane uses its name.
    """

    def __init__(self) -> None:
        self._factories: dict[str, ProviderFactory] = {}

    def add(self, name: str, factory: ProviderFactory) -> None:
        """Register a provider, replacing a provider of the same name."""
        self._factories[name] = factory

    def names(self) -> list[str]:
        """The names of all registered providers and entry points, sorted."""
        return sorted({*self._factories, *entry_points(group=ENTRY_POINTS).names})

    def create(self, lane: LaneSettings) -> LlmProvider:
        """Create the provider for a lane.

        Raises:
            ConfigError: no provider has that name; the message lists all names.
        """
        return self._factory(lane.provider)(lane)

    def default_endpoint(self, name: str) -> str | None:
        """The provider's default endpoint; None if a lane with this provider must set an endpoint.

        Raises:
            ConfigError: as `create`.
        """
        endpoint: str | None = getattr(self._factory(name), "default_endpoint", None)
        return endpoint

    def _factory(self, name: str) -> ProviderFactory:
        if name in self._factories:
            return self._factories[name]
        for entry in entry_points(group=ENTRY_POINTS, name=name):
            factory: ProviderFactory = entry.load()
            self._factories[name] = factory
            return factory
        raise ConfigError(f"No provider is called {name!r}. Use one of: {', '.join(self.names())}.")


def default_registry() -> ProviderRegistry:
    """A registry of the providers that come with tokenlane."""
    registry = ProviderRegistry()
    registry.add("builtin", BuiltinProvider)
    registry.add("llamacpp", LlamaCppProvider)
    registry.add("lmstudio", LmStudioProvider)
    registry.add("ollama", OllamaProvider)
    registry.add("openai", OpenAiProvider)
    registry.add("tgi", TgiProvider)
    registry.add("vllm", VllmProvider)
    return registry
