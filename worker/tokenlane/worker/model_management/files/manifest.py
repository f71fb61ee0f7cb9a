"""The manifest of a downloaded model: its files, and their hashes at the time of the download."""

from __future__ import annotations

import hashlib
from pathlib import Path

from pydantic import BaseModel, ValidationError

from tokenlane.routing.contract.errors import DigestMismatch, ModelNotFound

from .download import digest_of


def model_folder(home: Path, model: str) -> Path:
    """The folder for a model's own files. Its name is a hash, since a model's name may hold any character."""
    return home / "models" / hashlib.sha256(model.encode()).hexdigest()[:16]


class Manifest(BaseModel):
    """A model's files: the SHA-256 of each, by its path in the folder."""

    model: str
    folder: Path
    files: dict[str, str]

    @classmethod
    def of(cls, model: str, folder: Path, paths: list[str]) -> Manifest:
        """Make the manifest of these files from their present content."""
        return cls(model=model, folder=folder, files={path: digest_of(folder / path) for path in sorted(paths)})

    @property
    def digest(self) -> str:
        """For one file its SHA-256; for several the SHA-256 of the lines that `sha256sum` prints for them, sorted by
        path."""
        if len(self.files) == 1:
            return f"sha256:{next(iter(self.files.values()))}"
        lines = "".join(f"{digest}  {path}\n" for path, digest in sorted(self.files.items()))
        return f"sha256:{hashlib.sha256(lines.encode()).hexdigest()}"

    def write(self, home: Path) -> None:
        """Write the manifest. From then on the model counts as pulled."""
        folder = model_folder(home, self.model)
        folder.mkdir(parents=True, exist_ok=True)
        draft = folder / "manifest.json.new"
        draft.write_text(self.model_dump_json(indent=2), encoding="utf-8")
        draft.replace(folder / "manifest.json")

    @classmethod
    def read(cls, home: Path, model: str) -> Manifest:
        """Read the manifest of a model that was pulled completely.

        Raises:
            ModelNotFound: no pull of the model was completed on this host.
        """
        try:
            return cls.model_validate_json((model_folder(home, model) / "manifest.json").read_bytes())
        except (OSError, ValidationError):
            raise ModelNotFound("The model has not been pulled completely on this host: pull it.") from None

    def check(self) -> None:
        """Read all files again and compare their hashes.

        Raises:
            ModelNotFound: a file is missing.
            DigestMismatch: a file has changed.
        """
        missing = [path for path in self.files if not (self.folder / path).exists()]
        if missing:
            raise ModelNotFound(f"Files of the model are missing: {_listed(missing)}; pull it again.")
        changed = [path for path, digest in self.files.items() if digest_of(self.folder / path) != digest]
        if changed:
            raise DigestMismatch(
                f"Files of the model have changed since the download: {_listed(changed)}; pull it again."
            )


def _listed(paths: list[str]) -> str:
    return ", ".join(paths[:3]) + (f" and {len(paths) - 3} more" if len(paths) > 3 else "")
