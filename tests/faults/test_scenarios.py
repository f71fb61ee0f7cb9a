"""Whatever goes wrong, no answer is lost: seeds of random faults on one stack of real processes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import pytest_asyncio
from tests.faults.plan import SEEDS_OF_A_STACK, apis_of
from tests.faults.seeds import run_seed
from tests.faults.stack import Stack, stack


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make a test of each seed. Seeds that can share a stack run in one process."""
    first, _, last = metafunc.config.getoption("--seeds").partition("-")
    seeds = [
        pytest.param(seed, marks=pytest.mark.xdist_group(f"seeds {seed // SEEDS_OF_A_STACK}"))
        for seed in range(int(first), int(last or first) + 1)
    ]
    metafunc.parametrize("seed", seeds)


class Stacks:
    """The stack on which seeds run, one after another. After a failure, and for other kinds of model servers, the next
    seed gets a new one."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._opened = AsyncExitStack()
        self._stack: Stack | None = None
        self._apis: tuple[str, ...] = ()
        self._count = 0

    async def get(self, apis: tuple[str, ...]) -> Stack:
        """Return a stack with model servers of these kinds."""
        if self._stack is not None and apis != self._apis:
            await self.close()
        if self._stack is None:
            directory = self._directory / str(self._count)
            directory.mkdir()
            self._count += 1
            self._stack = await self._opened.enter_async_context(stack(directory, apis))
            self._apis = apis
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
async def test_no_answer_is_lost(seed: int, stacks: Stacks, pytestconfig: pytest.Config) -> None:
    """Every answer is whole, byte for byte, unless its agent cancelled it; and nothing is left over or readable.

    `--seeds A-B` runs the seeds from A to B; a failure, and a seed that runs alone, prints its whole history.
    """
    run = await run_seed(await stacks.get(apis_of(seed)), seed)
    print(f"seed {seed}: {run.took_s:.1f} s, answered after {run.answered_s:.1f} s, {len(run.problems)} problems")  # noqa: T201  # for runs by hand
    if "-" not in pytestconfig.getoption("--seeds"):
        print(run.history())  # noqa: T201  # as above
    if run.problems:
        try:
            await stacks.close()
        except AssertionError as error:
            run.problems.append(str(error))
        pytest.fail(run.history(), pytrace=False)
