"""Ollama's progress of a pull, line by line."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from pydantic import JsonValue

from tokenlane.benches.simulator.fault_script import FaultScript
from tokenlane.benches.simulator.model.models import SimulatedModels

from .encoders import line


class EncodedPull:
    """The manifest, then the layers by turns, each with its count. An interrupted pull keeps what it has.

    A failure is a line too: the first one has been sent by then, with status 200.
    """

    stream_type = "application/x-ndjson"
    late_head = False
    ping = b"\n"
    malformed = b'{"status": \n'
    huge_start = b'{"status": "'

    def __init__(self, models: SimulatedModels, name: str, script: FaultScript) -> None:
        self._models, self._script = models, script
        self._download = models.download(name)
        self.lines: list[str] = []
        """What has been told."""
        self.failed: str | None = None
        self.steps = 1 + (self._download.left if self._download else 0)

    def frames(self) -> Iterator[bytes]:
        """Lines of progress."""
        yield self._line({"status": "pulling manifest"})
        while self._download is not None:
            yield self._line(self._progress(self._download.step()))

    def ending(self) -> Iterator[bytes]:
        """The check, and its result."""
        download = self._download
        if download is None:
            yield from self.failing(500, "pull model manifest: file does not exist")
            return
        if self.steps == 1:  # there was nothing left to fetch
            for layer in range(len(download.model.layers)):
                yield self._line(self._progress(layer))
        yield self._line({"status": "verifying sha256 digest"})
        if not self._models.arrived(download, corrupt=self._script.corrupt):
            want, _ = download.model.layers[0]
            got = hashlib.sha256(want.encode()).hexdigest()
            yield from self.failing(
                500, f"digest mismatch, file must be downloaded again: want sha256:{want}, got sha256:{got}"
            )
            return
        yield self._line({"status": "writing manifest"})
        if not self._script.no_end:
            yield self._line({"status": "success"})

    def failing(self, status: int, error: JsonValue) -> Iterator[bytes]:
        """A line with the error."""
        self.failed = "simulated" if error is None else str(error)
        yield line({"error": self.failed})

    def departed(self) -> Iterator[bytes]:
        """A pull has no loaded model: nothing."""
        return self.failing(500, None)

    def stop(self, finish: str, sent: int) -> None:
        """Only its client stops a pull."""

    def whole(self) -> JsonValue:
        """The last line."""
        return {"status": "success"} if self.failed is None else {"error": self.failed}

    def headers(self) -> dict[str, str]:
        """No headers."""
        return {}

    def _progress(self, layer: int) -> dict[str, JsonValue]:
        assert self._download is not None
        digest, total = self._download.model.layers[layer]
        completed = min(self._download.completed()[layer], total)
        layer_digest: JsonValue = f"sha256:{digest}"
        return {"status": f"pulling {digest[:12]}", "digest": layer_digest, "total": total, "completed": completed}

    def _line(self, value: dict[str, JsonValue]) -> bytes:
        self.lines.append(str(value["status"]))
        return line(value)
