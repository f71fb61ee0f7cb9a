"""What a worker reports when it comes to a pool."""

from __future__ import annotations
