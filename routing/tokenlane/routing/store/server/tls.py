"""TLS connections to a Redis server: reads the certificate files that the URL names, and explains failures."""

from __future__ import annotations

import errno
import os
import ssl
from collections.abc import Iterator, Mapping
from itertools import takewhile
from pathlib import Path
from typing import Any

from tokenlane.config.host.bounded_files import read_file

CLIENT_CERTIFICATE = (
    "if the server requires a client certificate, add the files of one that its authority signed to the URL, "
    "?ssl_certfile=PATH&ssl_keyfile=PATH"
)
_OF_FILES = ("[X509", "[PEM", "[ASN1", "PEM lib", "cadata")
"""Parts of the texts of OpenSSL's errors that come from reading a file."""


class UnreadableFile(OSError):
    """A file that the URL names cannot be read."""


def with_files_read(options: Mapping[str, Any]) -> dict[str, Any]:
    """Read or check the certificate files in the options of a connection, and return the options to use. OpenSSL itself
    would read from a device or a pipe forever.

    Raises:
        UnreadableFile: a file cannot be read, or is too long.
    """
    read = dict(options)
    try:
        if authority := read.pop("ssl_ca_certs", None):
            # PEM is ASCII, except for comments.
            read["ssl_ca_data"] = read_file(Path(authority)).decode("ascii", "ignore")
        for name in ("ssl_certfile", "ssl_keyfile"):
            if file := read.get(name):
                _check_file(Path(file))
    except OSError as error:
        raise UnreadableFile(error.errno, error.strerror) from error
    return read


def _check_file(path: Path) -> None:
    """Check a file that OpenSSL reads by its path: it must be a regular file of limited size, or not exist."""
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise OSError(errno.EINVAL, f"{os.strerror(errno.EINVAL)}, it is not a regular file")
    read_file(path)


def tls_trouble(error: BaseException, where: str) -> str | None:
    """The message for an error from connecting to a `rediss://` URL; None if TLS is not the cause.

    Args:
        where: the URL without the password.
    """
    if isinstance(error, UnreadableFile):
        return _unreadable(where, f"a file cannot be read ({error.strerror or error})")
    _, *earlier = causes(error)
    *_, first = error, *takewhile(lambda it: isinstance(it, OSError), earlier)
    match first:
        case ssl.SSLCertVerificationError() as refused:
            return (
                f"The certificate of the Redis server at {where} cannot be verified ({refused.verify_message}): check "
                "the host name, and add the file of the server's certificate authority to the URL, ?ssl_ca_certs=PATH."
            )
        case ssl.SSLError() as failed if any(part in str(failed) for part in _OF_FILES):
            return _unreadable(where, "one of the files contains no certificate or key in PEM format")
        case ssl.SSLError(reason=str(reason)) if "ALERT" in reason:
            return f"The Redis server at {where} refuses the TLS handshake ({reason}): {CLIENT_CERTIFICATE}."
        case ssl.SSLError() | TimeoutError() | ConnectionResetError() | BrokenPipeError():
            return (
                f"No Redis server answers over TLS at {where}: check that this port accepts TLS; for a server without "
                f"TLS, use redis:// in the URL; {CLIENT_CERTIFICATE}."
            )
        case _:
            return None


def _unreadable(where: str, why: str) -> str:
    return (
        f"Cannot connect to {where} over TLS, because {why}: check the files that the URL names in ssl_ca_certs, "
        "ssl_certfile and ssl_keyfile."
    )


def causes(error: BaseException) -> Iterator[BaseException]:
    """An error and the chain of its causes: first the error, then its cause or context, and so on."""
    current: BaseException | None = error
    while current is not None:
        yield current
        current = current.__cause__ or current.__context__
