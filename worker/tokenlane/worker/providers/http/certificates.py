"""Builds a lane's TLS context, with the certificates that the lane trusts."""

from __future__ import annotations

import os
import ssl
from functools import cache
from pathlib import Path

import certifi

from tokenlane.config.exit_codes import ConfigError
from tokenlane.config.host.bounded_files import read_file


def tls_context(scheme: str) -> ssl.SSLContext:
    """A TLS context with this host's trusted certificates, or those that SSL_CERT_FILE and SSL_CERT_DIR name.

    Raises:
        ConfigError: the scheme is https, and SSL_CERT_FILE names a file that cannot be used.
    """
    paths = ssl.get_default_verify_paths()
    if scheme == "https":
        _check_certificates(paths.openssl_cafile_env)
    return _context(paths)


@cache
def _context(paths: ssl.DefaultVerifyPaths) -> ssl.SSLContext:
    """A TLS context that trusts the certificates at these paths, or Mozilla's if this host has none."""
    trusted = paths.cafile or paths.capath
    return ssl.create_default_context(cafile=None if trusted else certifi.where())


def _check_certificates(variable: str) -> None:
    """Check the certificate file that the environment variable names. OpenSSL ignores a file that it cannot use, and
    then trusts no server.

    Raises:
        ConfigError: the variable names a file that cannot be used.
    """
    file = os.environ.get(variable)  # noqa: TID251 - what OpenSSL reads
    if not file:
        return
    try:
        read_file(Path(file))  # bounded, since OpenSSL would never stop reading an endless file
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(file)
    except OSError as error:
        why = "holds no certificate in PEM" if isinstance(error, ssl.SSLError) else f"cannot be read ({error.strerror})"
        raise ConfigError(
            f"{variable} in the environment names {file!r}, which {why}: name a file of certificates, or unset it."
        ) from None
