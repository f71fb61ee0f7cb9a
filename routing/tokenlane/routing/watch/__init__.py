"""A pool as its operators see it: one snapshot, what is wrong with it, and what is wrong with its server."""

from __future__ import annotations
