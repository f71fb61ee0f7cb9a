"""`python -m tokenlane.worker.model_management.files pull|verify KIND HOME MODEL`: downloads or checks a model's files.

It is a process of its own, so that it can be killed at any moment. It writes lines of JSON: progress, and at the end
`done` with the digest, or `error`.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from tokenlane.routing.contract.errors import LlmError, ProviderDown

from .manifest import Manifest
from .sources import fetch_gguf, fetch_repository

_SAY_EVERY_S = 0.1


class _Teller:
    def __init__(self) -> None:
        self._step, self._due = "", 0.0

    def __call__(self, step: str, done: int, total: int | None) -> None:
        now = time.monotonic()
        if step != self._step or now >= self._due or done == total:
            self._step, self._due = step, now + _SAY_EVERY_S
            _say(step=step, done_bytes=done, total_bytes=total)


def _say(**line: object) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def _pull(kind: str, home: Path, model: str) -> None:
    tell = _Teller()
    manifest = fetch_gguf(model, home, tell) if kind == "gguf" else fetch_repository(model, tell)
    manifest.write(home)
    _say(
        done=manifest.digest,
        path=str(manifest.folder / next(iter(manifest.files)) if kind == "gguf" else manifest.folder),
    )


def _verify(home: Path, model: str) -> None:
    manifest = Manifest.read(home, model)
    manifest.check()
    _say(done=manifest.digest, path=str(manifest.folder))


def _main() -> None:
    action, kind, home, model = sys.argv[1:]
    try:
        if action == "pull":
            _pull(kind, Path(home), model)
        else:
            _verify(Path(home), model)
    except LlmError as error:
        _say(error=error.report().model_dump())
    except OSError as error:
        told = ProviderDown(
            f"the files cannot be kept or read: {error.strerror or type(error).__name__}",
            retryable=False,
            detail=str(error),
        )
        _say(error=told.report().model_dump())
    except Exception as error:
        told = ProviderDown(
            f"fetching failed in a way it should not ({type(error).__name__})",
            retryable=False,
            detail=str(error)[:2048],
        )
        _say(error=told.report().model_dump())


if __name__ == "__main__":
    _main()
