"""What a lane's back end can do, and one class for each dialect of it. Knows neither Redis nor ARQ."""

from __future__ import annotations

from .protocol import CountsTokens, Embeds, LlmProvider, Loads, Pulls, TellsVersion, Verifies
from .registry import ProviderFactory, ProviderRegistry, default_registry

__all__ = [
    "CountsTokens",
    "Embeds",
    "LlmProvider",
    "Loads",
    "ProviderFactory",
    "ProviderRegistry",
    "Pulls",
    "TellsVersion",
    "Verifies",
    "default_registry",
]
