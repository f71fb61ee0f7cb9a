"""`python -m tokenlane.worker.model_management.files pull|verify KIND HOME MODEL`: downloads or checks a model's files.

It runs in a separate process so that it can be killed at any moment. It prints lines of JSON: progress, and at the end
either `done` with the digest, or `error`.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from tokenlane.routing.contract.errors import LlmError, ProviderDown

from .manifest import Manifest
from .sources import Report, fetch_gguf, fetch_repository

_REPORT_EVERY_S = 0.1


def _progress_printer() -> Report:
    last_step, due = "", 0.0

    def report(step: str, done: int, total: int | None) -> None:
        nonlocal last_step, due
        now = time.monotonic()
        if step != last_step or now >= due or done == total:
            last_step, due = step, now + _REPORT_EVERY_S
            _print(step=step, done_bytes=done, total_bytes=total)

    return report


def _print(**line: object) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def _carry_out(action: str, kind: str, home: Path, model: str) -> None:
    if action == "verify":
        manifest = Manifest.read(home, model)
        manifest.check()
        _print(done=manifest.digest, path=str(manifest.folder))
        return
    report = _progress_printer()
    manifest = fetch_gguf(model, home, report) if kind == "gguf" else fetch_repository(model, report)
    manifest.write(home)
    path = manifest.folder / next(iter(manifest.files)) if kind == "gguf" else manifest.folder
    _print(done=manifest.digest, path=str(path))


def _main() -> None:
    action, kind, home, model = sys.argv[1:]
    try:
        return _carry_out(action, kind, Path(home), model)
    except LlmError as error:
        failure = error
    except OSError as error:
        what = f"The files cannot be written or read: {error.strerror or type(error).__name__}."
        failure = ProviderDown(what, retryable=False, detail=str(error))
    except Exception as error:
        what = f"The download failed with an internal error ({type(error).__name__})."
        failure = ProviderDown(what, retryable=False, detail=str(error)[:2048])
    _print(error=failure.report().model_dump())


if __name__ == "__main__":
    _main()
