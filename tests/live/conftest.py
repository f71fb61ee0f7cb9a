"""What live tests share: the built-in model, downloaded once, and a home for each test."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tokenlane.worker.builtin import model

from .commands import TIMEOUT_S, left_running


@pytest.fixture(scope="session")
def model_file() -> Path:
    """The built-in model, in this user's data directory."""
    return asyncio.run(model.fetch())


@pytest.fixture(scope="session", autouse=True)
def _waits_asleep() -> Iterator[None]:
    """The threads of a model server wait for each other asleep: spinning, two servers on as many cores all but stop."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_WAIT_POLICY", "passive")
        yield


@pytest.fixture
def home(tmp_path: Path, model_file: Path) -> Iterator[Path]:
    """A data directory with the model in it. At the end, nothing may run that uses it."""
    home = tmp_path / "home"
    (home / "models").mkdir(parents=True)
    (home / "models" / model.FILE_NAME).symlink_to(model_file)
    yield home
    until = time.monotonic() + TIMEOUT_S
    while left := left_running(home):
        assert time.monotonic() < until, f"still running: {left}"
        time.sleep(0.02)
