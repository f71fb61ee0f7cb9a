"""The progress of a pull as Ollama reports it, line by line."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from pydantic import JsonValue

from tokenlane.benches.simulator.fault_script import FaultScript
from tokenlane.benches.simulator.model.models import SimulatedModels

from .encoders import line


class EncodedPull:
    """A pull in Ollama's encoding: a line for the manifest, then lines in which the layers take turns.

    An interrupted pull keeps its progress. A failure is reported in a line, since the status 200 was sent before.
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
        """The statuses sent so far."""
        self.failed: str | None = None
        self.steps = 1 + (self._download.left if self._download else 0)

    def frames(self) -> Iterator[bytes]:
        """Yield the lines of progress."""
        yield self._line({"status": "pulling manifest"})
        while self._download is not None:
            yield self._line(self._progress(self._download.step()))

    def ending(self) -> Iterator[bytes]:
        """Yield the lines about the check of the hash and its result."""
        download = self._download
        if download is None:
            yield from self.error_bytes(500, "pull model manifest: file does not exist")
            return
        if self.steps == 1:  # all layers were present
            for layer in range(len(download.model.layers)):
                yield self._line(self._progress(layer))
        yield self._line({"status": "verifying sha256 digest"})
        if not self._models.finish_download(download, corrupt=self._script.corrupt):
            want, _ = download.model.layers[0]
            got = hashlib.sha256(want.encode()).hexdigest()
            yield from self.error_bytes(
                500, f"digest mismatch, file must be downloaded again: want sha256:{want}, got sha256:{got}"
            )
            return
        yield self._line({"status": "writing manifest"})
        if not self._script.no_end:
            yield self._line({"status": "success"})

    def error_bytes(self, status: int, error: JsonValue) -> Iterator[bytes]:
        """Yield a line with the error."""
        self.failed = "simulated" if error is None else str(error)
        yield line({"error": self.failed})

    def unloaded(self) -> Iterator[bytes]:
        """Return an error. A pull has no loaded model, so only a fault script leads here."""
        return self.error_bytes(500, None)

    def stop(self, finish: str, sent: int) -> None:
        """Do nothing, since only the client can stop a pull."""

    def unstreamed_body(self) -> JsonValue:
        """Return the last line as an object."""
        return {"status": "success"} if self.failed is None else {"error": self.failed}

    def headers(self) -> dict[str, str]:
        """Return no headers."""
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
