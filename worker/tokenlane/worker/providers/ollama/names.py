"""Compares names of models as Ollama does."""

from __future__ import annotations


def full_name(model: str) -> str:
    """The model's name in lower case with its tag, which is `latest` by default."""
    name = model.lower()
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"


def same_tag(named: str, asked: str) -> bool:
    """Whether both names mean the same model."""
    return full_name(named) == full_name(asked)
