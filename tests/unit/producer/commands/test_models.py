"""What `tokenlane models` shows of a command that takes time, and what a lane lists."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from tests.lanes import chats

from tokenlane.config.settings.values import LaneSettings
from tokenlane.producer.commands.models import ProgressLines, _table
from tokenlane.routing.contract.requests import ModelCommand
from tokenlane.routing.contract.results import ModelInfo, Progress
from tokenlane.routing.decide.lanes.offer import Announcement
from tokenlane.routing.support.byte_sizes import format_bytes
from tokenlane.worker.model_management.lane_models import LaneModels


async def test_waiting_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    """What waits says so once, not whenever a number in the words changes; another reason is told."""
    display = ProgressLines()
    for seconds in range(5):
        display._print_at -= 3  # as if time had passed
        display(Progress(step=f"lanes that are away: 'gpu0' (last seen {seconds} s ago)"))
    display(Progress(step="pulling"))
    assert capsys.readouterr().out.splitlines() == ["lanes that are away: 'gpu0' (last seen 0 s ago)", "pulling"]


async def test_bytes_are_told_again(capsys: pytest.CaptureFixture[str]) -> None:
    """Progress in bytes goes on being told, every few seconds."""
    display = ProgressLines()
    for done in (100, 200, 300):
        display._print_at -= 3
        display(Progress(step="pulling", done_bytes=done, total_bytes=400))
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_a_list_fits_a_screen() -> None:
    """A digest is cut where it does nothing but tell two models apart."""
    digest = "sha256:" + "0123456789abcdef" * 4
    rows = _table([ModelInfo(name="a", digest=digest), ModelInfo(name="b")]).rows
    assert [row[-1] for row in rows] == ["0123456789ab", "-"]


def test_a_list_names_the_file_of_a_pin() -> None:
    """The column for pins appears only if a model is pinned."""
    pinned, free = ModelInfo(name="a", pinned_by="/etc/llm.toml:2"), ModelInfo(name="b")
    assert [row[-1] for row in _table([pinned, free]).rows] == ["/etc/llm.toml:2", "-"]
    assert len(_table([free]).rows[0]) == len(_table([pinned]).rows[0]) - 1


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0 B"), (999, "999 B"), (999.6, "1.0 kB"), (999_950, "1.0 MB"), (999_949, "999.9 kB"), (2e9, "2.0 GB")],
)
def test_sizes(number: float, text: str) -> None:
    """What rounds to a thousand of a unit is one of the next."""
    assert format_bytes(number) == text


async def test_a_list_says_where_its_models_are() -> None:
    """A model in a list names its provider, its lane and its pin, whether or not the provider did so."""

    class Bare:
        async def models(self) -> list[ModelInfo]:
            return [ModelInfo(name="m")]

    announced = Announcement("gpu0", "parrot", "http://gpu0", ("m",), chats(1))

    async def look() -> Announcement:
        return announced

    async def tell(progress: Progress) -> None:
        raise AssertionError(progress)

    pins, files = {"m": f"sha256:{'0' * 64}"}, {"m": "llm.toml:2"}
    settings = LaneSettings("gpu0", "parrot", "http://gpu0", digests=pins, pinned_by=files)
    lane = LaneModels(settings, Bare(), announced, look, lambda _: None)  # type: ignore[arg-type]  # all a list needs
    (found,) = (await lane.carry_out(ModelCommand(action="list"), tell)).models
    assert (found.name, found.provider, found.lane, found.pinned_by) == ("m", "parrot", "gpu0", "llm.toml:2")


@pytest.mark.parametrize(
    ("models", "name", "not_as_pinned", "offered"),
    [((), "a", (), True), ((), "b", ("b",), False), (("a",), "b", (), False), (("a:latest",), "a", (), True)],
)
async def test_a_list_says_which_models_the_lane_offers(
    models: tuple[str, ...], name: str, not_as_pinned: tuple[str, ...], offered: bool
) -> None:
    """A model that is not in the settings, or not as pinned, is listed with the reason."""

    class Lists:
        async def models(self) -> list[ModelInfo]:
            return [ModelInfo(name=name)]

    offer = chats(1, not_as_pinned=dict.fromkeys(not_as_pinned, "why"))
    announced = Announcement("gpu0", "parrot", "http://gpu0", models or ("a",), offer)
    settings = LaneSettings("gpu0", "parrot", "http://gpu0", models=models)
    lane = LaneModels(settings, Lists(), announced, None, lambda _: None)  # type: ignore[arg-type]  # all a list needs
    (info,) = (await lane.carry_out(ModelCommand(action="list"), None)).models  # type: ignore[arg-type]  # unused
    assert (info.offered, bool(info.not_offered_because)) == (offered, not offered)
    (row,) = _table([info]).rows
    assert row[4].startswith("yes" if offered else "no: ")


async def test_what_a_lane_has_is_looked_at_in_turn() -> None:
    """Of two looks, the one that was begun first does not say the last word."""
    announced = Announcement("gpu0", "parrot", "http://gpu0", ("m",), chats(1))
    looks = [asyncio.Event(), asyncio.Event()]
    said: list[tuple[str, ...]] = []
    begun = 0

    async def look() -> Announcement:
        nonlocal begun
        number, begun = begun, begun + 1
        await looks[number].wait()
        return replace(announced, models=("m", f"look{number}"))

    settings = LaneSettings("gpu0", "parrot", "http://gpu0")
    lane = LaneModels(settings, None, announced, look, lambda it: said.append(it.models))  # type: ignore[arg-type]  # as above
    async with asyncio.TaskGroup() as tasks:
        for _ in looks:
            tasks.create_task(lane._try_announce_again())
        await asyncio.sleep(0)
        looks[1].set()
        await asyncio.sleep(0)
        looks[0].set()
    assert said[-1] == ("m", "look1")
