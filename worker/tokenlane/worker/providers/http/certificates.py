"""Which certificates a lane accepts from its back end."""

from __future__ import annotations

import os
import ssl
from functools import cache
from pathlib import Path

import certifi

from tokenlane.config.exit_codes import ConfigError
from tokenlane.config.host.bounded_files import read_file


def trusting(scheme: str) -> ssl.SSLContext:
    """TLS that trusts the certificates this host trusts, or those SSL_CERT_FILE and SSL_CERT_DIR name.

    Raises:
        ConfigError: SSL_CERT_FILE names what cannot be used, and the scheme is https.
    """
    paths = ssl.get_default_verify_paths()
    if scheme == "https":
        _check_certificates(paths.openssl_cafile_env)
    return _trusting(paths)


@cache
def _trusting(paths: ssl.DefaultVerifyPaths) -> ssl.SSLContext:
    """
    Args:
        paths: where they are now; a host that has none gets Mozilla's.
    """
    trusted = paths.cafile or paths.capath
    return ssl.create_default_context(cafile=None if trusted else certifi.where())


def _check_certificates(variable: str) -> None:
    """OpenSSL itself passes over a file that it cannot use, and would then trust nobody.

    Raises:
        ConfigError: the variable names such a file.
    """
    file = os.environ.get(variable)  # noqa: TID251 - what OpenSSL reads
    if not file:
        return
    try:
        read_file(Path(file))  # OpenSSL would read on for ever
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(file)
    except OSError as error:
        why = "holds no certificate in PEM" if isinstance(error, ssl.SSLError) else f"cannot be read ({error.strerror})"
        raise ConfigError(
            f"{variable} in the environment names {file!r}, which {why}: name a file of certificates, or unset it."
        ) from None
