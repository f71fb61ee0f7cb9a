"""What is wrong where a Redis server is to be reached by TLS, and what to check."""

from __future__ import annotations

import ssl

__all__ = ["tls_trouble"]

_OF_FILES = ("[X509", "[PEM", "[ASN1", "PEM lib")
"""The parts of OpenSSL that read files, as its errors name them."""


def tls_trouble(error: BaseException, where: str) -> str | None:
    """What this failure to connect to a `rediss://` URL says of TLS; None if it says nothing of it.

    Args:
        where: the URL without its password.
    """
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
        case FileNotFoundError() | PermissionError() | IsADirectoryError() as unread:
            return _unreadable(where, unread.strerror or type(unread).__name__)
        case _:
            return None


def _unreadable(where: str, why: str) -> str:
    return f"TLS to {where} cannot begin: {why}: check the files that ssl_ca_certs, ssl_certfile and ssl_keyfile name"


def _first(error: BaseException) -> BaseException:
    """What redis-py made its own error of; it keeps that as the context alone."""
    before = error.__cause__ or error.__context__
    return _first(before) if isinstance(before, OSError) else error
