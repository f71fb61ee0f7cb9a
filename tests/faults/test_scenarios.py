"""Whatever goes wrong, no answer is lost: seeds of random faults on one stack of real processes."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import pytest_asyncio
from tests.faults.seeds import run_seed
from tests.faults.stack import Stack, stack


def _seeds() -> range:
    """TOKENLANE_FAULT_SEEDS=A-B: the seeds from A to B; otherwise those that a test run has time for."""
    first, _, last = os.environ.get("TOKENLANE_FAULT_SEEDS", "0-49").partition("-")
    return range(int(first), int(last or first) + 1)


class Stacks:
    """The stack on which seeds run, one after another. After a failure the next seed gets a new one."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._opened = AsyncExitStack()
        self._stack: Stack | None = None
        self._count = 0

    async def get(self) -> Stack:
        """Return the stack, and start it if there is none."""
        if self._stack is None:
            directory = self._directory / str(self._count)
            directory.mkdir()
            self._count += 1
            self._stack = await self._opened.enter_async_context(stack(directory))
        return self._stack

    async def close(self) -> None:
        """Stop the stack."""
        self._stack = None
        opened, self._opened = self._opened, AsyncExitStack()
        await opened.aclose()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stacks(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stacks]:
    """The stack that the seeds share."""
    opened = Stacks(tmp_path_factory.mktemp("stacks"))
    try:
        yield opened
    finally:
        await opened.close()


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.timeout(180)
@pytest.mark.parametrize("seed", _seeds())
async def test_no_answer_is_lost(seed: int, stacks: Stacks) -> None:
    """Every answer is whole, byte for byte, unless its agent cancelled it; and nothing is left over or readable.

    TOKENLANE_FAULT_SEEDS=A-B runs the seeds from A to B; a failure prints the whole history of its seed.
    """
    run = await run_seed(await stacks.get(), seed)
    print(f"seed {seed}: {run.took_s:.1f} s, {len(run.problems)} problems")  # noqa: T201  # for runs by hand
    if run.problems:
        try:
            await stacks.close()
        except AssertionError as error:
            run.problems.append(str(error))
        pytest.fail(run.history(), pytrace=False)
