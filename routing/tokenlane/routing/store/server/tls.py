"""TLS to a Redis server: the files that its URL names, and what is wrong where it cannot be reached so."""

from __future__ import annotations

import errno
import os
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenlane.config.host.bounded_files import read_file

_OF_FILES = ("[X509", "[PEM", "[ASN1", "PEM lib", "cadata")
"""The parts of OpenSSL that read files and what was read of them, as its errors name them."""


class UnreadableFile(OSError):
    """A file that the URL names cannot be read."""


def with_files_read(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a connection with what OpenSSL would read by itself: without an end, where a name leads to a
    device or to a pipe.

    Raises:
        UnreadableFile: a file cannot be read, or is too long.
    """
    read = dict(options)
    try:
        if authority := read.pop("ssl_ca_certs", None):
            # In PEM, of which all but comments is ASCII.
            read["ssl_ca_data"] = read_file(Path(authority)).decode("ascii", "ignore")
        for name in ("ssl_certfile", "ssl_keyfile"):
            if file := read.get(name):
                _check_file(Path(file))
    except OSError as error:
        raise UnreadableFile(error.errno, error.strerror) from error
    return read


def _check_file(path: Path) -> None:
    """OpenSSL takes no content for these two."""
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise OSError(errno.EINVAL, f"{os.strerror(errno.EINVAL)}, it is no regular file")
    read_file(path)


def tls_trouble(error: BaseException, where: str) -> str | None:
    """What this failure to connect to a `rediss://` URL says of TLS; None if it says nothing of it.

    Args:
        where: the URL without its password.
    """
    if isinstance(error, UnreadableFile):
        return _unreadable(where, error.strerror or "it cannot be read")
    match _first(error):
        case ssl.SSLCertVerificationError() as refused:
            return (
                f"the certificate of the Redis server at {where} is not accepted ({refused.verify_message}): name the "
                "file of its authority in the URL, ?ssl_ca_certs=PATH, and check the host's name"
            )
        case ssl.SSLError() as failed if any(part in str(failed) for part in _OF_FILES):
            return _unreadable(where, "one of its files holds no certificate or key in PEM")
        case ssl.SSLError(reason=str(reason)) if "ALERT" in reason:
            return (
                f"the Redis server at {where} refuses the TLS handshake ({reason}): if it wants a client's "
                "certificate, name that in the URL, ?ssl_certfile=PATH&ssl_keyfile=PATH"
            )
        case ssl.SSLError() | TimeoutError() | ConnectionResetError() | BrokenPipeError():
            return (
                f"no Redis server answers by TLS at {where}: check that this port speaks TLS; for one that does not "
                "the URL is redis://"
            )
        case _:
            return None


def _unreadable(where: str, why: str) -> str:
    return f"TLS to {where} cannot begin: {why}: check the files that ssl_ca_certs, ssl_certfile and ssl_keyfile name"


def _first(error: BaseException) -> BaseException:
    """What redis-py made its own error of; it keeps that as the context alone."""
    before = error.__cause__ or error.__context__
    return _first(before) if isinstance(before, OSError) else error
