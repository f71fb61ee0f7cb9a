"""The units in `config/systemd` as tests use them."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from tests.repository import ROOT

__all__ = ["FOLDER", "Unit", "units"]

FOLDER = ROOT / "config" / "systemd"


@dataclass(frozen=True)
class Unit:
    """A unit's file. A setting that occurs several times has several values."""

    file: Path

    @property
    def name(self) -> str:
        """Its name for `systemctl`, such as `tokenlane-router` or `tokenlane-worker@`."""
        return self.file.stem

    def values(self, setting: str) -> list[str]:
        """The values of a setting, of whatever section."""
        lines = [line.partition("=") for line in self.file.read_text(encoding="utf-8").splitlines()]
        return [value for name, _, value in lines if name == setting]

    def value(self, setting: str) -> str:
        """The value of a setting that occurs once."""
        (value,) = self.values(setting)
        return value

    def command(self, instance: str = "") -> list[str]:
        """What the unit runs."""
        return shlex.split(self.value("ExecStart").replace("%i", instance))

    def sandbox(self) -> list[str]:
        """The lines that limit what the service may do."""
        text = self.file.read_text(encoding="utf-8")
        return text.partition("\nUMask=")[2].partition("\n[Install]")[0].split()


def units() -> list[Unit]:
    """All units."""
    return [Unit(file) for file in sorted(FOLDER.glob("*.service"))]
