"""The verbs of the configuration itself."""

from __future__ import annotations
