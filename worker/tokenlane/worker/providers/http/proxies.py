"""Chooses the proxy for a model server by HTTP_PROXY, HTTPS_PROXY and NO_PROXY in the environment."""

from __future__ import annotations

from ipaddress import ip_address
from urllib.parse import SplitResult, urlsplit
from urllib.request import getproxies, proxy_bypass

from tokenlane.config.exit_codes import ConfigError


def proxy_for(url: SplitResult) -> str | None:
    """The URL of the proxy for this URL; None if it needs none, as loopback addresses never do.

    Raises:
        ConfigError: the variable does not hold a proxy's address, or names a proxy that is neither HTTP nor HTTPS.
    """
    if _is_loopback(url.hostname or "") or proxy_bypass(url.netloc.rpartition("@")[2]):
        return None
    proxies = getproxies()
    kind = url.scheme if proxies.get(url.scheme) else "all"
    address = proxies.get(kind)
    if not address:
        return None
    variable = f"{kind.upper()}_PROXY"
    proxy = web_address(address if "://" in address else f"http://{address}")
    if proxy is None:  # the message does not quote the address, which may hold a password
        raise ConfigError(
            f"The environment variable {variable} is not a proxy's address: set it to http://HOST:PORT or "
            "http://USER:PASSWORD@HOST:PORT (special characters as %XX), or name the model server's host in NO_PROXY."
        )
    if proxy.scheme not in ("http", "https"):
        raise ConfigError(
            f"The environment variable {variable} names a {proxy.scheme} proxy, which is not supported: name an HTTP "
            "proxy, or name the model server's host in NO_PROXY."
        )
    return proxy.geturl()


def web_address(text: str) -> SplitResult | None:
    """The parsed URL; None if its host name or its port is invalid."""
    try:
        url = urlsplit(text)
        host = url.hostname or ""
        host.encode("idna").decode("idna")  # as DNS does: no label may be empty or longer than 63 bytes
        return url if host and url.port != 0 else None
    except ValueError:
        return None


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
