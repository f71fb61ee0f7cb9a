"""The providers: one class for each kind of model server, all with one protocol. They know neither Redis nor ARQ."""

from __future__ import annotations

from tokenlane.worker.providers.errors.batch_errors import TooManyTexts

from .protocol import (
    CountsTokens,
    Embeds,
    KeepsKv,
    LlmProvider,
    Loads,
    MayLoad,
    Pulls,
    ReportsHealth,
    ReportsVersion,
    SuggestsAlternatives,
    Verifies,
    can_load,
)
from .registry import ProviderFactory, ProviderRegistry, default_registry

__all__ = [
    "CountsTokens",
    "Embeds",
    "KeepsKv",
    "LlmProvider",
    "Loads",
    "MayLoad",
    "ProviderFactory",
    "ProviderRegistry",
    "Pulls",
    "ReportsHealth",
    "ReportsVersion",
    "SuggestsAlternatives",
    "TooManyTexts",
    "Verifies",
    "can_load",
    "default_registry",
]
