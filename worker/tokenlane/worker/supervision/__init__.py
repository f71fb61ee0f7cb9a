"""What `up` keeps running, and its worker processes."""

from __future__ import annotations
