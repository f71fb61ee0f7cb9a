"""What a lane's back end can do, and one class for each dialect of it. Knows neither Redis nor ARQ."""

from __future__ import annotations

from .protocol import (
    Advises,
    CountsTokens,
    Embeds,
    KeepsBefore,
    LlmProvider,
    Loads,
    Pulls,
    TellsHealth,
    TellsVersion,
    Verifies,
)
from .registry import ProviderFactory, ProviderRegistry, default_registry
from .too_many import TooManyTexts

__all__ = [
    "Advises",
    "CountsTokens",
    "Embeds",
    "KeepsBefore",
    "LlmProvider",
    "Loads",
    "ProviderFactory",
    "ProviderRegistry",
    "Pulls",
    "TellsHealth",
    "TellsVersion",
    "TooManyTexts",
    "Verifies",
    "default_registry",
]
