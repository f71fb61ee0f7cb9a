"""Models as files on the worker's own host, for servers that load a model when they are started."""

from __future__ import annotations
