"""Compares the names of models as Ollama does: without case, and with `latest` as the default tag."""

from __future__ import annotations


def full_name(model: str) -> str:
    """The model's name in lower case, with its tag."""
    name = model.lower()
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"


def same_model_name(named: str, requested: str) -> bool:
    """Whether both names mean the same model."""
    return full_name(named) == full_name(requested)
