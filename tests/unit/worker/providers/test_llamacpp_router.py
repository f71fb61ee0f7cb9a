"""What a lane takes over from the list of models of llama.cpp's server in router mode."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tokenlane.config.settings.values import LaneSettings
from tokenlane.worker.providers.openai.llamacpp_router import LlamaCppRouter


async def ask(path: str, question: object, timeout_s: float) -> Any:
    raise AssertionError("nothing is asked of the server")


def router() -> LlamaCppRouter:
    return LlamaCppRouter(LaneSettings("gpu0", "llamacpp", "http://there"), ask)


def entry(arguments: object) -> dict[str, object]:
    return {"id": "m", "status": {"value": "loaded", "args": arguments}}


@pytest.mark.parametrize("arguments", [5, {"--parallel": "4"}, "--parallel 4", [None, 1], ["--parallel"], True])
async def test_options_that_are_no_list_of_options(arguments: object) -> None:
    """The server's document is not trusted: the number of slots is then unknown."""
    lane = router()
    lane.note([entry(arguments)])
    assert lane.slots == 0


@pytest.mark.parametrize(
    ("arguments", "slots"), [(["--parallel", "8"], 8), (["--parallel=8"], 8), (["--parallel", "999999999"], 0)]
)
async def test_the_number_of_slots(arguments: list[str], slots: int) -> None:
    """Both spellings of an option count. A number that no server has does not become the lane's limit."""
    lane = router()
    lane.note([entry(arguments)])
    assert lane.slots == slots


async def test_a_list_without_models_deletes_no_cache(tmp_path: Path) -> None:
    """A router that rescans its folder lists none for a moment."""
    lane = router()
    lane.note([entry(["--slot-save-path", str(tmp_path), "--parallel", "2"])])
    kept = tmp_path / f"{lane._files._prefix}0"
    kept.touch()
    lane.note([])
    assert (lane.slots, kept.exists()) == (2, True)
