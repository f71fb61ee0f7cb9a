"""The verb `tokenlane dashboard`."""

from __future__ import annotations

import pytest

from tokenlane.config.exit_codes import ConfigError
from tokenlane.producer.commands.dashboard import dashboard


@pytest.mark.parametrize("token", ["two words", "line\n", "schlüssel"])
def test_a_token_that_no_browser_can_send(token: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is refused at the start, and is not in the message."""
    monkeypatch.setenv("TOKENLANE_DASHBOARD_TOKEN", token)
    with pytest.raises(ConfigError) as raised:
        dashboard("127.0.0.1:0")
    assert token not in str(raised.value)
