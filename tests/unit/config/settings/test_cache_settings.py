"""Where a host keeps vectors, and how many."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from tokenlane.config.exit_codes import ConfigError
from tokenlane.config.settings.load import cache_settings

MIB = 1024 * 1024


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TOKENLANE_EMBEDDINGS__CACHE_MB")
    monkeypatch.setenv("TOKENLANE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_a_host_has_one_file_in_the_data_directory(home: Path) -> None:
    """Without a word it is 256 MB, in a file of this host's own."""
    found = cache_settings()
    assert found is not None
    assert (found.path, found.limit_bytes) == (home / f"vectors-{socket.gethostname()}.sqlite3", 256 * MIB)


def test_the_size_is_a_setting_and_none_switches_it_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """[embeddings] cache_mb says how many megabytes; 0 means that nothing is kept."""
    Path("llm.toml").write_text("[embeddings]\ncache_mb = 3\n")
    found = cache_settings()
    assert found is not None
    assert found.limit_bytes == 3 * MIB
    monkeypatch.setenv("TOKENLANE_EMBEDDINGS__CACHE_MB", "0")
    assert cache_settings() is None


def test_a_size_below_nothing_is_refused() -> None:
    """A wrong size is an error with its place."""
    Path("llm.toml").write_text("[embeddings]\ncache_mb = -1\n")
    with pytest.raises(ConfigError, match=r"llm\.toml:2.*cache_mb"):
        cache_settings()
