"""Who may see the dashboard and who may act."""

from __future__ import annotations

import pytest
from pydantic import SecretStr

from tokenlane.producer.dashboard.access import Access, Refused, only_this_host_reaches

TOKEN = "a-token"
ACCESS = Access(SecretStr(TOKEN), frozenset({"gpu-hub", "ops.example"}), viewing_is_open=True)
CLOSED = Access(SecretStr(TOKEN), frozenset(), viewing_is_open=False)


def refused_site(links_allowed: bool = True, **headers: str) -> int | None:
    """The status with which a request with these headers is refused."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        ACCESS.check_site(named, links_allowed=links_allowed)
    except Refused as refused:
        return refused.status
    return None


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:9466", "127.0.0.1:9466", "[::1]:9466", "10.1.2.3", "GPU-HUB:9466", "ops.example"]
)
def test_hosts_that_are_known(host: str) -> None:
    """Addresses, which no site can rebind, localhost, and names that the operator allowed, in any case."""
    assert refused_site(Host=host) is None


@pytest.mark.parametrize(
    "host", ["", "evil.example", "localhost.evil.example:9466", "127.0.0.1.evil.example", "[::1", "a b"]
)
def test_a_rebound_name_is_refused(host: str) -> None:
    """A site whose name points here sends its own name."""
    assert refused_site(Host=host) == 421


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "http://localhost:9467", "http://127.0.0.1:9466", "null", "", "http://["]
)
def test_another_origin_is_refused(origin: str) -> None:
    """Only the page itself, at the Host that it was asked at, may ask."""
    assert refused_site(Host="localhost:9466", Origin=origin) == 403


def test_the_own_origin() -> None:
    """With HTTP, and with HTTPS if a proxy ends TLS."""
    assert refused_site(Host="localhost:9466", Origin="http://localhost:9466") is None
    assert refused_site(Host="ops.example", Origin="https://ops.example") is None


def test_what_browsers_say_of_other_sites() -> None:
    """A request from another site is refused, also without an Origin; a link to the page works, but to nothing else."""
    assert refused_site(Host="localhost", Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="no-cors") == 403
    assert refused_site(Host="localhost", Sec_Fetch_Site="same-site", Sec_Fetch_Mode="cors") == 403
    assert refused_site(Host="localhost", Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="navigate") is None
    assert refused_site(False, Host="localhost", Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="navigate") == 403
    assert refused_site(False, Host="localhost", Sec_Fetch_Site="none", Sec_Fetch_Mode="navigate") is None
    assert refused_site(Host="localhost", Sec_Fetch_Site="same-origin", Sec_Fetch_Mode="cors") is None


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": TOKEN},
        {"Authorization": "Bearer"},
        {"Authorization": f"Basic {TOKEN}"},
        {"Authorization": f"Bearer {TOKEN[:-1]}"},
        {"Authorization": f"Bearer {TOKEN}s"},
        {"Authorization": "Bearer \udcff"},
    ],
)
def test_acting_needs_the_token(headers: dict[str, str]) -> None:
    """Also where viewing is open; the error does not repeat what was given."""
    for check in (ACCESS.check_operator, CLOSED.check_operator, CLOSED.check_viewer):
        with pytest.raises(Refused) as refused:
            check(headers)
        assert refused.value.status == 401
        assert TOKEN[:-1] not in str(refused.value)
    ACCESS.check_viewer(headers)


@pytest.mark.parametrize("header", ["Forwarded", "x-forwarded-for", "X-Forwarded-Host", "Via", "X-Real-IP"])
def test_what_a_proxy_passes_on_needs_the_token(header: str) -> None:
    """Even if the proxy asks for a loopback address, since its visitors may be anywhere."""
    passed_on = {"Host": "127.0.0.1:9466", header: "192.0.2.7"}
    with pytest.raises(Refused) as refused:
        ACCESS.check_viewer(passed_on)
    assert refused.value.status == 401
    ACCESS.check_viewer({**passed_on, "Authorization": f"Bearer {TOKEN}"})


def test_the_token() -> None:
    """It allows all; it is in no text of the object."""
    for access in (ACCESS, CLOSED):
        access.check_operator({"Authorization": f"Bearer {TOKEN}"})
        access.check_viewer({"Authorization": f"bearer  {TOKEN} "})
        assert TOKEN not in repr(access)


@pytest.mark.parametrize(
    ("address", "names", "expected"),
    [
        ("127.0.0.1", [], True),
        ("127.9.9.9", [], True),
        ("::1", [], True),
        ("127.0.0.1", ["dash.example"], False),
        ("0.0.0.0", [], False),
        ("10.0.0.1", [], False),
    ],
)
def test_only_this_host_reaches_a_loopback_address(address: str, names: list[str], expected: bool) -> None:
    """Through a proxy, which needs a name, other hosts reach it."""
    assert only_this_host_reaches(address, names) == expected
