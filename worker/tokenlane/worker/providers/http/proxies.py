"""Which proxy the environment names for a back end."""

from __future__ import annotations

from ipaddress import ip_address
from urllib.parse import SplitResult, urlsplit
from urllib.request import getproxies, proxy_bypass

from tokenlane.config.exit_codes import ConfigError


def proxy_for(url: SplitResult) -> str | None:
    """The proxy the environment names for this address; none for loopback, whatever the environment says.

    Raises:
        ConfigError: the variable holds no proxy's address, or a proxy that speaks neither HTTP nor HTTPS.
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
    if proxy is None:  # not quoted: it may hold a password
        raise ConfigError(
            f"{variable} in the environment is not a proxy's address: set it to http://HOST:PORT (with a user, "
            "http://USER:PASSWORD@HOST:PORT, whose special characters are written as %XX), or name the back end's "
            "host in NO_PROXY."
        )
    if proxy.scheme not in ("http", "https"):
        raise ConfigError(f"{variable} in the environment names a {proxy.scheme} proxy; use an HTTP proxy or NO_PROXY.")
    return proxy.geturl()


def web_address(text: str) -> SplitResult | None:
    """The URL in its parts; None unless its host can be looked up, and its port, if it names one, can exist."""
    try:
        url = urlsplit(text)
        host = url.hostname or ""
        host.encode("idna").decode("idna")  # as a name is looked up: no label may be empty, or longer than 63 bytes
        return url if host and url.port != 0 else None
    except ValueError:
        return None


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
