"""Where a client's pool is that names none."""

from __future__ import annotations

from pathlib import Path

import pytest

from tokenlane.config.host.pool_key_files import PoolKey, write_key_file
from tokenlane.config.host.up_registry import RunningUp
from tokenlane.config.settings.client_pool import keys_of_client, pool_of_client
from tokenlane.producer import Client, PoolUnavailable, sync


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
    """The environment wins over llm.toml, that over a running `up`; an argument wins over all."""
    up = RunningUp(Path("/run/up.sock"), "unix:///run/up.sock", None)
    monkeypatch.setattr("tokenlane.config.settings.load.running_up", lambda: up)
    assert pool_of_client()[0].url == "unix:///run/up.sock"
    (tmp_path / "llm.toml").write_text('[redis]\nurl = "redis://file"\npool = "blue"\n')
    assert (pool_of_client()[0].url, pool_of_client()[1]) == ("redis://file", "blue")
    assert "pool 'blue'" in repr(Client())
    assert "pool 'green'" in repr(Client(pool="green"))
    monkeypatch.setenv("TOKENLANE_REDIS_URL", "redis://environment")
    assert pool_of_client()[0].url == "redis://environment"
    assert "pool 'main'" in repr(Client("redis://argument"))
    (tmp_path / "llm.toml").write_text("not toml")
    assert "pool 'main'" in repr(Client("redis://argument", key=[]))
    for url in (None, "redis://argument"):
        with pytest.raises(PoolUnavailable, match=r"llm\.toml"):
            Client(url)


def test_the_keys_come_with_the_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    """TOKENLANE_POOL_KEY goes to the pool that the environment names; a wrong key is refused and not quoted."""
    key = PoolKey.new()
    assert keys_of_client().ids == ()
    monkeypatch.setenv("TOKENLANE_REDIS_URL", "redis://gpu-hub")
    monkeypatch.setenv("TOKENLANE_POOL_KEY", key.reveal())
    assert pool_of_client()[0].keys.ids == (key.id,)
    assert keys_of_client().ids == (key.id,)
    monkeypatch.setenv("TOKENLANE_POOL_KEY", "nonsense")
    for url in (None, "redis://argument"):
        with pytest.raises(PoolUnavailable, match="TOKENLANE_POOL_KEY") as refused:
            Client(url)
        assert "nonsense" not in str(refused.value)
    assert Client("redis://argument", key=key.reveal()).agent


def test_a_key_file_is_named_in_the_settings(tmp_path: Path) -> None:
    """The key file of llm.toml serves clients with a URL, too."""
    ring = write_key_file(tmp_path / "own.key", [PoolKey.new()])
    (tmp_path / "llm.toml").write_text('[redis]\nkey_file = "own.key"\n')
    assert keys_of_client().ids == ring.ids
