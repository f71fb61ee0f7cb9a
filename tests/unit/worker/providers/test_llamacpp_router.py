"""What a lane takes over from the list of models of llama.cpp's server in router mode."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tokenlane.config.settings.values import LaneSettings
from tokenlane.routing.contract.errors import ProviderDown
from tokenlane.worker.providers.openai.llamacpp import LlamaCppProvider
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
    await lane.note([entry(arguments)], 1)
    assert lane.slots == 0


@pytest.mark.parametrize(
    ("arguments", "slots"), [(["--parallel", "8"], 8), (["--parallel=8"], 8), (["--parallel", "999999999"], 0)]
)
async def test_the_number_of_slots(arguments: list[str], slots: int) -> None:
    """Both spellings of an option count. A number that no server has does not become the lane's limit."""
    lane = router()
    await lane.note([entry(arguments)], 1)
    assert lane.slots == slots


async def test_a_list_without_models_deletes_no_cache(tmp_path: Path) -> None:
    """A router that rescans its folder lists none for a moment."""
    lane = router()
    await lane.note([entry(["--slot-save-path", str(tmp_path), "--parallel", "2"])], 1)
    kept = tmp_path / f"{lane._files._prefix}0"
    kept.touch()
    await lane.note([], 2)
    assert (lane.slots, kept.exists()) == (2, True)


class Server:
    """Lists one model, and says whether it takes tools and leaves a partial answer open."""

    def __init__(self) -> None:
        self.status, self.options, self.tools = "loaded", ["--ctx-size", "1"], True
        self.fails = False
        self.asked: list[str] = []

    async def answer(self, path: str, *_: object, **__: object) -> Any:
        self.asked.append(path.partition("?")[0])
        if self.fails:
            raise ProviderDown
        if path == "/v1/models":
            return {"data": [{"id": "m", "status": {"value": self.status, "args": self.options}}]}
        if path == "/apply-template":
            return {"prompt": "Once upon"}
        return {"chat_template_caps": {"supports_tool_calls": self.tools}}


@pytest.mark.parametrize("change", ["another process", "other options", "restart"])
async def test_abilities_are_asked_for_again_when_they_may_have_changed(
    change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the model was unloaded meanwhile, has other options, or the server was away; else once."""
    server = Server()
    provider = LlamaCppProvider(LaneSettings("gpu0", "llamacpp", "http://there"))
    monkeypatch.setattr(provider, "_request_json", server.answer)
    for _ in range(2):
        (model,) = await provider.models()
        assert "tools" in model.capabilities
    assert server.asked.count("/props") == 1
    server.tools = False
    if change == "another process":
        server.status = "unloaded"
        (model,) = await provider.models()
        assert "tools" in model.capabilities  # as far as is known
        server.status = "loaded"
    elif change == "other options":
        server.options = ["--ctx-size", "2"]
    else:
        server.fails = True
        with pytest.raises(ProviderDown):
            await provider.models()
        server.fails = False
    (model,) = await provider.models()
    assert "tools" not in model.capabilities
