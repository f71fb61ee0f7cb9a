"""What a lane's back end can do, and one class for each dialect of it. Knows neither Redis nor ARQ."""

from __future__ import annotations

from .protocol import LlmProvider, TellsVersion
from .registry import ProviderFactory, ProviderRegistry, default_registry

__all__ = ["LlmProvider", "ProviderFactory", "ProviderRegistry", "TellsVersion", "default_registry"]
