"""The files in which a lane keeps the KV cache of an unloaded model."""

from __future__ import annotations

import asyncio
import stat
from pathlib import Path
from typing import Any, Literal

import pytest

from tokenlane.routing.contract.errors import ProviderDown
from tokenlane.worker.providers.openai.slot_files import KeptKv, SlotFiles


class Server:
    """Writes what its slots hold, and reads as much of it as it is told to."""

    def __init__(self, directory: Path, *slots: int) -> None:
        self.directory, self.slots = directory, slots
        self.fails, self.forgets = False, 0

    async def act(self, action: Literal["save", "restore"], model: str, slot: int, name: str) -> dict[str, Any]:
        if self.fails:
            raise ProviderDown("it quotes a prompt")
        if action == "save":
            (self.directory / name).write_bytes(b"state")
            return {"n_saved": self.slots[slot]}
        assert (self.directory / name).read_bytes() == b"state"
        return {"n_restored": self.slots[slot] - self.forgets}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A private directory."""
    slots = tmp_path / "slots"
    slots.mkdir(mode=0o700)
    return slots


async def saved(server: Server, directory: Path | None, lane: str = "gpu0", endpoint: str = "http://a") -> SlotFiles:
    """The files of a lane that has saved a model's slots."""
    files = SlotFiles(lane, endpoint, server.act)
    await files.use(None if directory is None else str(directory))
    await files.save("m", list(range(len(server.slots))))
    return files


async def test_slots_are_kept_in_private_files_until_they_are_restored(directory: Path) -> None:
    """Empty slots leave no file; the second time there is nothing to restore."""
    files = await saved(Server(directory, 7, 0, 5), directory)
    assert [stat.S_IMODE(file.stat().st_mode) for file in directory.iterdir()] == [0o600, 0o600]
    assert await files.restore("other") is None
    assert await files.restore("m") == KeptKv(12)
    assert await files.restore("m") is None
    assert not list(directory.iterdir())


@pytest.mark.parametrize("case", ["no directory", "absent", "not private", "no slots", "fails at saving"])
async def test_what_cannot_be_saved_is_lost_with_a_reason(case: str, directory: Path) -> None:
    """Nothing is written where others could read it."""
    server = Server(directory, *(() if case == "no slots" else (7,)))
    server.fails = case == "fails at saving"
    if case == "not private":
        directory.chmod(0o750)
    place = {"no directory": None, "absent": directory / "no"}.get(case, directory)
    kept = await (await saved(server, place)).restore("m")
    assert kept is not None
    assert (kept.tokens, bool(kept.lost_because), "prompt" in kept.lost_because) == (0, True, False)
    assert not list(directory.iterdir())


async def test_only_what_the_server_confirms_is_kept(directory: Path) -> None:
    """A server that restores less, or fails, has lost it. The files are deleted all the same."""
    for forgets, fails in ((1, False), (0, True)):
        server = Server(directory, 7)
        files = await saved(server, directory)
        server.forgets, server.fails = forgets, fails
        kept = await files.restore("m")
        assert kept is not None
        assert (kept.tokens, bool(kept.lost_because)) == (0, True)
        assert not list(directory.iterdir())


async def test_files_end_with_the_worker_and_with_the_start_of_the_next(directory: Path) -> None:
    """A lane deletes its own files alone."""
    first = await saved(Server(directory, 7), directory)
    others = [await saved(Server(directory, 7), directory, *other) for other in (("gpu1",), ("gpu0", "http://b"))]
    await SlotFiles("gpu0", "http://a", Server(directory, 7).act).use(str(directory))
    assert len(list(directory.iterdir())) == 2
    await first.clear()
    assert len(list(directory.iterdir())) == 2
    for other in others:
        await other.clear()
    assert not list(directory.iterdir())


async def test_a_cleaning_does_not_delete_what_is_being_saved(directory: Path) -> None:
    """It waits for the end of the save, which the server may take long for."""
    server, saving, go = Server(directory, 7), asyncio.Event(), asyncio.Event()

    async def act(action: Literal["save", "restore"], model: str, slot: int, name: str) -> dict[str, Any]:
        saving.set()
        await go.wait()
        return await server.act(action, model, slot, name)

    files = SlotFiles("gpu0", "http://a", act)
    await files.use(str(directory))
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(files.save("m", [0]))
        await saving.wait()
        cleaning = tasks.create_task(files.clear())
        await asyncio.sleep(0)
        assert not cleaning.done()
        assert len(list(directory.iterdir())) == 1
        go.set()
    assert not list(directory.iterdir())
