"""Where the prompt plugins of a host are."""

from __future__ import annotations

from pathlib import Path

import pytest

from tokenlane.config.exit_codes import ConfigError
from tokenlane.config.settings.load import plugin_settings


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TOKENLANE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_a_host_has_none_by_default() -> None:
    assert plugin_settings() is None


def test_the_directory_is_relative_to_the_file(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Machine code is kept in this user's data directory."""
    (tmp_path / "etc" / "plugins").mkdir(parents=True)
    (tmp_path / "etc" / "llm.toml").write_text('[advanced]\nplugins = "plugins"\n')
    monkeypatch.setenv("TOKENLANE_CONFIG", str(tmp_path / "etc" / "llm.toml"))
    found = plugin_settings()
    assert found is not None
    assert (found.directory, found.cache) == (tmp_path / "etc" / "plugins", home / "plugins")


def test_a_directory_that_does_not_exist_is_an_error() -> None:
    """With the place of the setting."""
    Path("llm.toml").write_text('[advanced]\nplugins = "nowhere"\n')
    with pytest.raises(ConfigError, match=r"llm\.toml:2.*advanced\.plugins.*nowhere"):
        plugin_settings()
