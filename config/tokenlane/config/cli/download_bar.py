"""Shows the progress of downloads on a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from tokenlane.config.cli.output import console


@contextmanager
def download_bar(*, stderr: bool = False) -> Iterator[Callable[[str, int, int | None], None]]:
    """Yield a function that updates a progress bar. The bar appears with the first call.

    The function takes a description, the bytes received so far, and the total number of bytes, or None if unknown.
    """
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    progress = Progress(*columns, TimeRemainingColumn(), console=console(stderr=stderr), transient=stderr)
    download = progress.add_task("", total=None)

    def show(description: str, done_bytes: int, total_bytes: int | None) -> None:
        progress.start()
        progress.update(download, description=description, completed=done_bytes, total=total_bytes)

    try:
        yield show
    finally:
        if progress.live.is_started:
            progress.stop()
