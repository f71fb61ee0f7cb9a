from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from tokenlane.config.exit_codes import ConfigError
from tokenlane.config.settings.values import LaneSettings, RedisSettings, default_lane, has_impossible_host, masked_url


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://host:6379/0", "redis://host:6379/0"),
        ("redis://:hunter2@host:6379", "redis://:***@host:6379"),
        ("rediss://me:hunter2@host/1", "rediss://me:***@host/1"),
        ("redis://me:hun/t@er2@host", "redis://me:***@host"),
        ("unix:///run/redis.sock?db=0&password=hunter2", "unix:///run/redis.sock?db=0&password=***"),
        ("rediss://host?ssl_password=hunter2&db=1", "rediss://host?ssl_password=***&db=1"),
        ("unix://me:hunter2@/run/redis.sock", "unix://me:***@/run/redis.sock"),
        ("redis://us/er:hunter2@h:1/0", "redis://us/er:***@h:1/0"),
        ("redis://me@corp.example:hunter2@h:1/0", "redis://me@corp.example:***@h:1/0"),
        ("redis://us?er:hunter2@h:1", "redis://us?er:***@h:1"),
        (":hunter2@host:6379", ":***@host:6379"),
        ("me:hunter2@host", "me:***@host"),
        ("http:/me:hunter2@host", "http:***@host"),
        ("redis://host:6379/0?password=hun@ter2", "redis://host:***"),
        ("redis://hunter2@host:6379/0", "redis://***@host:6379/0"),
        ("rediss://hun/t@er2@[::1]:6379", "rediss://***@[::1]:6379"),
        ("unix://hunter2@/run/redis.sock?db=1", "unix://***@/run/redis.sock?db=1"),
        ("unix:///run/a@b/redis.sock", "unix:///run/a@b/redis.sock"),
        ("http://hunter2@host/v1", "http://***@host/v1"),
        ("hunter2@host:6379", "***@host:6379"),
        ("unix:///run/redis.sock?password=hun:t@er2&db=1", "unix:///run/redis.sock?password=***&db=1"),
        ("redis+sentinel://me:hunter2@one:1,two:2/main/0", "redis+sentinel://me:***@one:1,two:2/main/0"),
        ("redis+sentinel://one:1/main?sentinel_password=hunter2", "redis+sentinel://one:1/main?sentinel_password=***"),
        ("redis+sentinel://hunter2@one:1,two:2/main", "redis+sentinel://***@one:1,two:2/main"),
        ("http://host:1/?api_key=hunter2&Token=hunter2&n=1", "http://host:1/?api_key=***&Token=***&n=1"),
    ],
)
def test_masked_url(url: str, shown: str) -> None:
    """A URL is shown whole but for its passwords."""
    assert masked_url(url) == shown


_ODD = st.text(alphabet=st.characters(exclude_categories=("C", "Z")), min_size=1)


@given(password=_ODD.map(lambda text: f"<{text}>"))
def test_no_password_is_ever_shown(password: str) -> None:
    """Whatever the password, neither repr nor str nor the safe URL shows it."""
    settings = RedisSettings(f"redis://me:{password}@host:6379/0")
    assert password not in f"{settings!r} {settings} {settings.safe_url}"


@given(
    start=st.sampled_from(["", "redis://", "unix://"]),
    user=_ODD.filter(lambda text: not set(":<") & set(text)),
    password=_ODD.map(lambda text: f"<{text}>"),
)
def test_no_password_is_shown_beside_an_odd_user(start: str, user: str, password: str) -> None:
    """Nor does it matter whose password it is, and whether the URL begins as one."""
    assert password not in masked_url(f"{start}{user}:{password}@host:6379/0")


@given(
    start=st.sampled_from(["", "redis://", "rediss://", "unix://", "http://"]),
    password=_ODD.filter(lambda text: ":" not in text).map(lambda text: f"<{text}>"),
)
def test_no_password_without_its_colon_is_shown(start: str, password: str) -> None:
    """A password that stands where the user's name should be is not shown either."""
    assert password not in masked_url(f"{start}{password}@host:6379/0")


def test_a_url_of_another_protocol_is_refused_without_its_password() -> None:
    """A URL that is not one of Redis is refused; the message says which would do and hides the password."""
    with pytest.raises(ConfigError, match="redis://HOST:6379") as refused:
        RedisSettings("https://me:hunter2@host")
    assert "hunter2" not in str(refused.value)


def test_a_key_and_an_endpoint_are_not_in_the_repr() -> None:
    """A lane's repr shows neither its key nor its endpoint, which may hold a password."""
    lane = LaneSettings("gpu0", "vllm", endpoint="http://me:hunter2@host", api_key=SecretStr("sesame"))
    assert "hunter2" not in repr(lane)
    assert "sesame" not in repr(lane)


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": ""},
        {"name": "a b"},
        {"name": ".hidden"},
        {"name": "x" * 129},
        {"capacity": 0},
        {"token_timeout_s": 0.0},
        {"total_timeout_s": -1.0},
    ],
)
def test_a_lane_out_of_range_is_refused(wrong: dict[str, Any]) -> None:
    """A name that cannot be part of a key, no capacity, or no time at all are refused."""
    with pytest.raises(ConfigError):
        LaneSettings(**{"name": "gpu0", "provider": "vllm"} | wrong)


@pytest.mark.parametrize("host", ["gpu-1.example.org", "Zoë's Mac", "_odd", "...", "h" * 300])
def test_the_default_lane_is_a_usable_name(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    """Whatever the host is called, the default name of its lane is one that a lane may have, and tells the provider."""
    monkeypatch.setattr("socket.gethostname", lambda: host)
    lane = LaneSettings(default_lane("ollama"), "ollama")
    assert lane.name.endswith("-ollama")


@pytest.mark.parametrize(
    ("url", "impossible"),
    [
        *(
            (f"http://{host}/v1", True)
            for host in ("[::1", "a b", "a..b", f"{'a' * 64}.example", "user:word@a..b", ":80")
        ),
        *(
            (f"http://{host}/v1", False)
            for host in ("[::1]:8000", "gpu_host", "b\u00fccher.example", "user:w[rd@h:1", "h.")
        ),
    ],
)
def test_hosts_that_cannot_be(url: str, impossible: bool) -> None:
    """A model server's URL is refused where nothing could ever be looked up or reached under its host."""
    assert has_impossible_host(url) is impossible
