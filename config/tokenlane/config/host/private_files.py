"""Writes files that only their owner may read."""

from __future__ import annotations

import os
import secrets
from pathlib import Path


def write_private(path: Path, text: str, *, replace: bool = True) -> None:
    """Write a file with mode 0600, completely or not at all.

    Raises:
        FileExistsError: the file exists, and `replace` is false.
        OSError: the file cannot be written.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        if replace:
            new.replace(path)
        else:
            os.link(new, path)
    finally:
        new.unlink(missing_ok=True)
