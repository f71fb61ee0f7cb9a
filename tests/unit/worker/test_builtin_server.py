"""How the process of the built-in model's server is started."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tokenlane.worker.builtin.server import builtin_server

STAND_IN = '#!/bin/sh\necho "{\\"endpoint\\": \\"$OMP_WAIT_POLICY\\"}"\nexec cat > /dev/null\n'
"""A program that starts as the server does, and says how its threads would wait."""


@pytest.mark.parametrize(("set_by_user", "found"), [(None, "passive"), ("active", "active")])
async def test_its_threads_wait_asleep(
    set_by_user: str | None, found: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else another program that wants a core all but stops the server. The user's own choice counts."""
    program = tmp_path / "python"
    program.write_text(STAND_IN)
    program.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(program))
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    if set_by_user is not None:
        monkeypatch.setenv("OMP_WAIT_POLICY", set_by_user)
    async with builtin_server(tmp_path / "model") as endpoint:
        assert endpoint == found
