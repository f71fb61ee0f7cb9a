"""URLs that name the Sentinels of a pool's servers."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.asyncio.connection import parse_url

from tokenlane.config.exit_codes import ConfigError
from tokenlane.config.host.sentinel_urls import SentinelUrl, is_sentinel_url
from tokenlane.config.settings.values import RedisSettings


def test_a_url_names_sentinels_service_and_database() -> None:
    """All parts are read, and the server's URL has the primary's address, the database and the options."""
    url = SentinelUrl.parse("redis+sentinel://me:p%40ss@one:26380,[::1],two/my%20pool/3?client_name=x")
    assert url.addresses == (("one", 26380), ("::1", 26379), ("two", 26379))
    assert url.service == "my pool"
    assert url.server_url("10.0.0.1", 6379) == "redis://me:p%40ss@10.0.0.1:6379/3?client_name=x"
    assert url.server_url("fe80::1", 6380) == "redis://me:p%40ss@[fe80::1]:6380/3?client_name=x"


def test_sentinels_have_a_password_of_their_own() -> None:
    """The servers' user and password are never sent to the Sentinels, nor the other way round."""
    url = SentinelUrl.parse(
        "redis+sentinel://me:servers@one,two/main?sentinel_username=you&sentinel_password=sen%26t%2Binels&db=2"
    )
    for asked in url.sentinel_urls:
        options = parse_url(asked)
        assert (options["username"], options["password"]) == ("you", "sen&t+inels")
        assert options.get("db", 0) == 0
    assert "inels" not in url.server_url("h", 1)
    assert parse_url(url.server_url("h", 1))["db"] == 2


def test_without_options_sentinels_are_asked_without_a_password() -> None:
    """As Sentinels are installed by default."""
    assert SentinelUrl.parse("redis+sentinel://:p@one:1/main").sentinel_urls == ("redis://one:1",)


def test_tls_is_used_for_sentinels_and_servers() -> None:
    """One certificate authority and one client certificate for both."""
    url = SentinelUrl.parse("rediss+sentinel://:p@one:1/main?ssl_ca_certs=%2Fca.pem&client_name=x")
    assert url.sentinel_urls == ("rediss://one:1?ssl_ca_certs=%2Fca.pem",)
    assert url.server_url("h", 1) == "rediss://:p@h:1/?ssl_ca_certs=%2Fca.pem&client_name=x"


@pytest.mark.parametrize(
    ("url", "names"),
    [
        ("redis+sentinel://one:26379", "/SERVICE"),
        ("redis+sentinel://one:26379/", "/SERVICE"),
        ("redis+sentinel:///main", "HOST:PORT"),
        ("redis+sentinel://one,,two/main", "HOST:PORT"),
        ("redis+sentinel://one:0/main", "port"),
        ("redis+sentinel://one,two:65536/main", "port"),
        ("redis+sentinel://one:26379;two:26379/main", "HOST:PORT"),
        ("redis+sentinel://::1/main", "HOST:PORT"),
        ("redis+sentinel://[::1/main", "HOST:PORT"),
        ("redis+sentinel://:hunter2@one,:hunter2@two/main", "%40"),
        ("redis+sentinel://one/main/two", "database"),
        ("redis+sentinel://one/main/-1", "database"),
        ("redis+sentinel://one/main/0/1", "database"),
        ("redis+sentinel://one/main?db=two", "database"),
        ("redis+sentinel://one/main?sentinel_pass=hunter2", "sentinel_password"),
    ],
)
def test_a_wrong_url_is_refused_with_its_reason(url: str, names: str) -> None:
    """The message names what is wrong, and shows no password."""
    with pytest.raises(ConfigError) as refused:
        RedisSettings(url)
    assert names in str(refused.value)
    assert "hunter2" not in str(refused.value)


@given(password=st.text(min_size=1).map(lambda text: f"<{text}>"))
def test_no_password_of_sentinels_or_servers_is_shown(password: str) -> None:
    """Quoted as they must be, both passwords are read and neither is shown."""
    quoted = quote(password, safe="")
    settings = RedisSettings(f"redis+sentinel://:{quoted}@one:1,two:2/main?sentinel_password={quoted}")
    assert quoted not in f"{settings!r} {settings.safe_url}"
    url = SentinelUrl.parse(settings.url)
    assert quoted not in repr(url)
    assert parse_url(url.server_url("h", 1))["password"] == password
    assert {parse_url(asked)["password"] for asked in url.sentinel_urls} == {password}


@pytest.mark.parametrize("url", ["redis://h/main", "rediss://h", "unix:///redis+sentinel", "sentinel://h/main"])
def test_other_urls_name_no_sentinels(url: str) -> None:
    """Only the two schemes do."""
    assert not is_sentinel_url(url)
