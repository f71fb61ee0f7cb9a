"""Which proxy the environment names for a back end."""

from __future__ import annotations

from base64 import b64encode
from ipaddress import ip_address
from urllib.request import getproxies, proxy_bypass

import httpx

from tokenlane.config.exit_codes import ConfigError


def proxy_for(url: httpx.URL) -> httpx.Proxy | None:
    """The proxy the environment names for this address; none for loopback, whatever the environment says.

    Raises:
        ConfigError: what it names is no proxy's address, or a proxy that speaks neither HTTP nor HTTPS.
    """
    if _is_loopback(url.host) or proxy_bypass(url.netloc.decode()):
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
    return _with_credentials(httpx.Proxy(proxy))


def web_address(text: str) -> httpx.URL | None:
    """The URL, if it is one with a host and a port that there can be."""
    try:
        url = httpx.URL(text)
        url.raw_host.decode().encode("idna")  # as a name is looked up: no label may be empty, or longer than 63 bytes
        return url if url.host and (url.port is None or 0 < url.port < 1 << 16) else None
    except (httpx.InvalidURL, ValueError):  # the latter: a name that cannot be one of a host
        return None


def _with_credentials(proxy: httpx.Proxy) -> httpx.Proxy:
    """The proxy with its user and password where aiohttp wants them: as a header, which it gives to the proxy alone."""
    if proxy.raw_auth is None:
        return proxy
    user_and_password = b64encode(b":".join(proxy.raw_auth)).decode()
    return httpx.Proxy(proxy.url, headers={"Authorization": f"Basic {user_and_password}"})


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
