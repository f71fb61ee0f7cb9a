"""A progress bar for the built-in model's download."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from tokenlane.config.cli.output import console
from tokenlane.worker.builtin import MODEL_NAME


@contextmanager
def download_bar() -> Iterator[Callable[[int, int], None]]:
    """A progress bar that shows itself only if it is called."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    progress = Progress(*columns, TimeRemainingColumn(), console=console(stderr=True), transient=True)
    download = progress.add_task(f"fetching {MODEL_NAME}", total=None)

    def advance(done: int, total: int) -> None:
        progress.start()
        progress.update(download, completed=done, total=total)

    try:
        yield advance
    finally:
        if progress.live.is_started:
            progress.stop()
