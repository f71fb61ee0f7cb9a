"""The worker's verbs on the command line, one module each."""

from __future__ import annotations
