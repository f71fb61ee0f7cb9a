"""Formats sizes in bytes as text, such as `12.3 MB`."""

from __future__ import annotations


def format_bytes(number: float) -> str:
    """Return a size as text, in units of powers of 1000."""
    for unit in ("B", "kB", "MB", "GB"):
        digits = 0 if unit == "B" else 1
        if round(number, digits) < 1000:
            return f"{number:.{digits}f} {unit}"
        number /= 1000
    return f"{number:.1f} TB"
