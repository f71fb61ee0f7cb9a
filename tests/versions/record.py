"""Records a released version for tests/integration/whole/test_versions.py: `python tests/versions/record.py COMMIT`.

The archive is the wheel of that commit without the benches and the fallback model. So the tests need neither a network
nor the history.
"""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile

LEFT_OUT = ("tokenlane/benches/", "tokenlane/worker/embeddings/english.bin")
ARCHIVE = Path(__file__).parent / "previous.zip"


def record(commit: str) -> None:
    """Build the wheel of a commit, and write what the tests need of it."""
    with tempfile.TemporaryDirectory() as folder:
        source = subprocess.run(["git", "archive", commit], check=True, capture_output=True).stdout
        with tarfile.open(fileobj=io.BytesIO(source)) as files:
            files.extractall(folder, filter="data")
        build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", "made"]
        subprocess.run(build, cwd=folder, check=True)
        (wheel,) = Path(folder, "made").glob("*.whl")
        with ZipFile(wheel) as whole, ZipFile(ARCHIVE, "w", ZIP_DEFLATED, compresslevel=9) as kept:
            for entry in whole.infolist():
                if not entry.filename.startswith(LEFT_OUT):
                    kept.writestr(entry, whole.read(entry))


if __name__ == "__main__":
    record(*sys.argv[1:])
