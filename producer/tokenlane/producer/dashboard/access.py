"""Who may see the page and who may act: the checks of Host, Origin and token."""

from __future__ import annotations

import hmac
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import urlsplit

from pydantic import SecretStr

_OWN_SITE = ("", "same-origin", "none")
_OF_PROXIES = ("forwarded", "x-forwarded-", "via", "x-real-ip")
"""What the names of headers begin with that a proxy adds, in lower case. Browsers send none of them."""


class Refused(Exception):
    """A request is refused: with which HTTP status and why, as a sentence."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


@dataclass(frozen=True)
class Access:
    """Who may see and act.

    Args:
        token: operators need it to act, and viewers where viewing is not open.
        names: the names, in lower case, by which browsers may ask for the page, besides `localhost` and addresses.
        viewing_is_open: whether viewing needs no token, as on a loopback address.
    """

    token: SecretStr
    names: frozenset[str]
    viewing_is_open: bool

    def check_site(self, headers: Mapping[str, str], *, links_allowed: bool) -> None:
        """Refuse a request that another web site makes in an operator's browser.

        A site whose own name points to this address (DNS rebinding) sends that name as Host. A site that asks this
        address directly sends its own Origin, and browsers say so in Sec-Fetch-Site too.

        Args:
            links_allowed: whether other sites may link here, as to the page itself.

        Raises:
            Refused: another web site made the request, or the Host is not known.
        """
        host = headers.get("Host", "")
        if not self._knows(host):
            raise Refused(421, f"The dashboard does not know the name {_hostname(host)!r}: allow it with --allow-host.")
        origin = headers.get("Origin")
        is_foreign = origin is not None and origin.lower().partition("://")[2] != host.lower()
        is_link = links_allowed and headers.get("Sec-Fetch-Mode") == "navigate"
        if is_foreign or (headers.get("Sec-Fetch-Site", "") not in _OWN_SITE and not is_link):
            raise Refused(403, "Another web site made this request.")

    def check_viewer(self, headers: Mapping[str, str]) -> None:
        """Refuse to show anything of the pool without the token, unless viewing is open to this host and no proxy has
        passed the request on, perhaps for another host.

        Raises:
            Refused: the token is missing or wrong.
        """
        is_from_a_proxy = any(name.lower().startswith(_OF_PROXIES) for name in headers)
        if is_from_a_proxy or not self.viewing_is_open:
            self.check_operator(headers)

    def check_operator(self, headers: Mapping[str, str]) -> None:
        """Refuse to act without the token.

        Raises:
            Refused: the token is missing or wrong.
        """
        scheme, _, given = headers.get("Authorization", "").partition(" ")
        expected = self.token.get_secret_value().encode()
        if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(errors="replace"), expected):
            what = "The token is wrong" if given else "This needs the token"
            raise Refused(401, f"{what}: the command `tokenlane dashboard` printed it when it started.")

    def _knows(self, host: str) -> bool:
        name = _hostname(host)
        if name == "localhost" or name in self.names:
            return True
        try:
            ip_address(name)
        except ValueError:
            return False
        return True  # a rebound name is never an address


def only_this_host_reaches(address: str, names: Collection[str]) -> bool:
    """Whether only this host reaches the page, which listens on this address and also answers to these names: a name is
    that of a proxy, whose visitors come from other hosts."""
    return ip_address(address).is_loopback and not names


def _hostname(host: str) -> str:
    """The name or address in a Host header; empty if there is none."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""
