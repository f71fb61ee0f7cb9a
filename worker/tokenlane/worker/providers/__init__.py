"""The providers: one class for each kind of model server, behind one protocol. Knows neither Redis nor ARQ."""

from __future__ import annotations

from tokenlane.worker.providers.errors.batch_errors import TooManyTexts

from .protocol import (
    Advises,
    CountsTokens,
    Embeds,
    LlmProvider,
    Loads,
    Pulls,
    ReportsHealth,
    ReportsVersion,
    Verifies,
)
from .registry import ProviderFactory, ProviderRegistry, default_registry

__all__ = [
    "Advises",
    "CountsTokens",
    "Embeds",
    "LlmProvider",
    "Loads",
    "ProviderFactory",
    "ProviderRegistry",
    "Pulls",
    "ReportsHealth",
    "ReportsVersion",
    "TooManyTexts",
    "Verifies",
    "default_registry",
]
