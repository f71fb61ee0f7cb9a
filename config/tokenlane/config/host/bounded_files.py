"""Reads files and standard input with a size limit, and does not wait forever for a silent pipe."""

from __future__ import annotations

import errno
import os
import select
import stat
import sys
from functools import cache
from pathlib import Path

from tokenlane.config.exit_codes import ConfigError

MOST_BYTES = 16 * 1024 * 1024
"""The default size limit. Settings, keys, certificates and prompts are smaller."""
_PIECE = 1024 * 1024
_SILENCE_S = 10.0


def read_file(path: Path, most: int = MOST_BYTES) -> bytes:
    """Return the content of a file or a pipe, such as a shell's `<(command)`.

    The content of a pipe, which can be read only once, is kept for later calls.

    Raises:
        OSError: the file cannot be read, is a directory, is longer than `most` bytes, or is a silent pipe.
    """
    status = path.stat()
    return _read(path, most) if stat.S_ISREG(status.st_mode) else _read_once(path, most, status.st_dev, status.st_ino)


def _read(path: Path, most: int) -> bytes:
    # Without O_NONBLOCK, opening a pipe would wait until another process opens it for writing.
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        content = bytearray()
        while len(content) <= most:
            if not stat.S_ISREG(mode) and not select.select([descriptor], [], [], _SILENCE_S)[0]:
                raise TimeoutError(errno.ETIMEDOUT, f"the pipe sent nothing for {_SILENCE_S:g} s", str(path))
            piece = os.read(descriptor, min(_PIECE, most + 1 - len(content)))
            if not piece:
                return bytes(content)
            content += piece
    finally:
        os.close(descriptor)
    raise OSError(errno.EFBIG, f"the file is longer than the limit of {most} bytes", str(path))


@cache
def _read_once(path: Path, most: int, device: int, inode: int) -> bytes:
    return _read(path, most)


@cache
def standard_input(most: int = MOST_BYTES) -> bytes:
    """Return the content of standard input. It is read once, and kept for later calls.

    Raises:
        ConfigError: standard input is closed, cannot be read, or is longer than `most` bytes.
    """
    if sys.stdin is None:
        raise ConfigError("Standard input is closed: redirect it from a file or a pipe.")
    try:
        content = sys.stdin.buffer.read(most + 1)
    except OSError as error:
        raise ConfigError(f"Standard input cannot be read: {error.strerror or error}.") from error
    if len(content) > most:
        raise ConfigError(f"Standard input is longer than the limit of {most} bytes: shorten it.")
    return content
