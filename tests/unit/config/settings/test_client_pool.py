"""Where a client's pool is that names none."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tokenlane.config.host.pool_key_files import PoolKey
from tokenlane.config.settings.client_pool import find_place
from tokenlane.producer import Client, PoolUnavailable, sync

WITHOUT_EXTRAS = """
import sys
sys.modules["platformdirs"] = sys.modules["pydantic_settings"] = None
from tokenlane.producer import Client, PoolUnavailable
from tokenlane.config.settings.client_pool import find_place
try:
    place = find_place()
    print(place.redis.url, place.pool, *place.redis.keys.ids)
except Exception as error:
    print(type(error).__name__, error)
try:
    print(Client())
except PoolUnavailable as error:
    print(error)
"""


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing names a pool."""
    for name in ("REDIS_URL", "POOL", "POOL_KEY", "CONFIG", "LLM"):
        monkeypatch.delenv(f"TOKENLANE_{name}", raising=False)
    monkeypatch.setenv("TOKENLANE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)


def test_no_pool_is_found() -> None:
    """With nothing to go by, a client says what to do when it is made."""
    for client in (Client, sync.Client):
        with pytest.raises(PoolUnavailable, match=r"TOKENLANE_REDIS_URL.*llm\.toml.*tokenlane up"):
            client()


@pytest.mark.parametrize("home", ["none/yet", "file/below", "file"])
def test_looking_for_a_pool_needs_no_place_to_write(home: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the data directory is not there, or cannot be, there is no pool; looking makes nothing."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("TOKENLANE_HOME", str(tmp_path / home))
    with pytest.raises(PoolUnavailable, match=r"TOKENLANE_REDIS_URL"):
        Client()
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_the_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment wins over llm.toml, that over a running `up`; an argument wins over all, and reads nothing."""
    monkeypatch.setattr("tokenlane.config.settings.load.announced_url", lambda: "unix:///run/up.sock")
    assert find_place().redis.url == "unix:///run/up.sock"
    (tmp_path / "llm.toml").write_text('[redis]\nurl = "redis://file"\npool = "blue"\n')
    assert (find_place().redis.url, find_place().pool) == ("redis://file", "blue")
    assert "pool 'blue'" in repr(Client())
    assert "pool 'green'" in repr(Client(pool="green"))
    monkeypatch.setenv("TOKENLANE_REDIS_URL", "redis://environment")
    assert find_place().redis.url == "redis://environment"
    (tmp_path / "llm.toml").write_text("not toml")
    assert "pool 'main'" in repr(Client("redis://argument"))
    with pytest.raises(PoolUnavailable, match=r"llm\.toml"):
        Client()


def without_extras(**environment: str) -> list[str]:
    """What is found where the extra [cli] is not installed."""
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_EXTRAS], env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()


def test_the_base_install_looks_at_the_environment() -> None:
    """Without the extra [cli] the environment names the pool, its name and its keys, or the error names the extra."""
    key = PoolKey.new()
    named = {"TOKENLANE_REDIS_URL": "redis://gpu-hub", "TOKENLANE_POOL": "blue", "TOKENLANE_POOL_KEY": key.reveal()}
    assert without_extras(**named)[0] == f"redis://gpu-hub blue {key.id}"
    assert "pool 'blue'" in without_extras(**named)[1]
    wrong = without_extras(TOKENLANE_REDIS_URL="redis://gpu-hub", TOKENLANE_POOL_KEY="nonsense")
    assert "TOKENLANE_POOL_KEY" in wrong[1]
    assert "nonsense" not in "".join(wrong)
    for said in without_extras():
        assert "tokenlane[cli]" in said
        assert "TOKENLANE_REDIS_URL" in said
