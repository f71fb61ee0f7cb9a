"""Whether this process records the Redis commands of requests as spans."""

from __future__ import annotations

from threading import Event

RECORDED = Event()
"""`export_spans` sets it for all threads of the process, if the settings want it."""
