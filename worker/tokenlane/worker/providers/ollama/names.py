"""Names of models as Ollama takes them."""

from __future__ import annotations

BEFORE = "-before-pull"
"""Ends the tag under which a model is kept while another of its name is pulled."""


def full_name(model: str) -> str:
    """A model's name with its tag, in the one case: without one Ollama means `latest`."""
    return _tagged(model.lower())


def name_before(model: str) -> str:
    """The name under which a model is kept."""
    return f"{_tagged(model)}{BEFORE}"


def _tagged(name: str) -> str:
    return name if ":" in name.rpartition("/")[2] else f"{name}:latest"
