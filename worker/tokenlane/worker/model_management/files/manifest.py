"""What was fetched for a model: which files, and their hashes when they came."""

from __future__ import annotations

import hashlib
from pathlib import Path

from pydantic import BaseModel, ValidationError

from tokenlane.routing.contract.errors import DigestMismatch, ModelNotFound

from .download import digest_of


def place_of(home: Path, model: str) -> Path:
    """The folder that is a model's own; its name is safe whatever the model is called."""
    return home / "models" / hashlib.sha256(model.encode()).hexdigest()[:16]


class Manifest(BaseModel):
    """The files of a model, by their path in its folder, with their SHA-256."""

    model: str
    folder: Path
    files: dict[str, str]

    @classmethod
    def of(cls, model: str, folder: Path, paths: list[str]) -> Manifest:
        """The manifest of these files as they are now."""
        return cls(model=model, folder=folder, files={path: digest_of(folder / path) for path in sorted(paths)})

    @property
    def digest(self) -> str:
        """Of a model of one file the file's; else of the lines that `sha256sum` writes for its files, by path."""
        if len(self.files) == 1:
            return f"sha256:{next(iter(self.files.values()))}"
        lines = "".join(f"{digest}  {path}\n" for path, digest in sorted(self.files.items()))
        return f"sha256:{hashlib.sha256(lines.encode()).hexdigest()}"

    def write(self, home: Path) -> None:
        """Keep it: from now on the model is there."""
        place = place_of(home, self.model)
        place.mkdir(parents=True, exist_ok=True)
        draft = place / "manifest.json.new"
        draft.write_text(self.model_dump_json(indent=2), encoding="utf-8")
        draft.replace(place / "manifest.json")

    @classmethod
    def read(cls, home: Path, model: str) -> Manifest:
        """That of a model that was pulled to its end.

        Raises:
            ModelNotFound: it was not.
        """
        try:
            return cls.model_validate_json((place_of(home, model) / "manifest.json").read_bytes())
        except (OSError, ValidationError):
            raise ModelNotFound("the model was not pulled on this host, or not to its end: pull it") from None

    def check(self) -> None:
        """Read all files again.

        Raises:
            ModelNotFound: one is missing.
            DigestMismatch: one is not what it was.
        """
        missing = [path for path in self.files if not (self.folder / path).exists()]
        if missing:
            raise ModelNotFound(f"{_listed(missing)} of the model's files are not there any more: pull it again")
        changed = [path for path, digest in self.files.items() if digest_of(self.folder / path) != digest]
        if changed:
            raise DigestMismatch(f"{_listed(changed)} are not what they were when they came: pull the model again")


def _listed(paths: list[str]) -> str:
    return ", ".join(paths[:3]) + (f" and {len(paths) - 3} more" if len(paths) > 3 else "")
