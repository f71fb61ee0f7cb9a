"""What the child processes of a test have written: shown if the test fails. Imports nothing of ours, as `waiting`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["children_output", "shown_on_failure"]

_OPEN: list[Callable[[], str]] = []


@contextmanager
def shown_on_failure(output: Callable[[], str]) -> Iterator[None]:
    """Show this output if the block fails, or if a test fails while the block is entered by a fixture."""
    _OPEN.append(output)
    try:
        yield
    except BaseException:
        print(output())  # noqa: T201  # pytest shows it with the failure
        raise
    finally:
        _OPEN.remove(output)


def children_output() -> str:
    """What the children that fixtures hold have written so far."""
    return "\n".join(output() for output in _OPEN)
