"""What is installed: the packages of the base install, the pinned versions with their hashes, and the wheel."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from tests.documents import table_on
from tests.repository import ROOT

MOST_PACKAGES = 12
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LOCK = (ROOT / "requirements.lock").read_text(encoding="utf-8")
ENTRY = re.compile(r"^(\S+)==(\S+)([^\n]*?) \\\n((?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)", re.MULTILINE)


def base_install(name: str, found: set[str]) -> set[str]:
    """What a package needs without extras, by the metadata of what is installed here."""
    for needed in map(Requirement, distribution(name).requires or ()):
        known = canonicalize_name(needed.name)
        if known not in found and (needed.marker is None or needed.marker.evaluate({"extra": ""})):
            found.add(known)
            base_install(known, found)
    return found


def locked() -> dict[str, set[str]]:
    """The versions that the lock pins, by package; a package may have one for each system or Python version."""
    versions: dict[str, set[str]] = {}
    for name, version, *_ in ENTRY.findall(LOCK):
        versions.setdefault(canonicalize_name(name), set()).add(version)
    return versions


def of_extra(name: str) -> Iterator[Requirement]:
    """The requirements of an extra, with those of the extras that it includes."""
    for needed in map(Requirement, PROJECT["optional-dependencies"][name]):
        if needed.name != "tokenlane":
            yield needed
        for extra in needed.extras if needed.name == "tokenlane" else ():
            yield from of_extra(extra)


def test_the_base_install_is_what_the_page_lists() -> None:
    """At most twelve packages; redis-py 5 needs one more."""
    rows = table_on(ROOT / "docs" / "supply-chain.md", "base")
    listed = {canonicalize_name(name) for packages, _ in rows for name in packages.split(", ")}
    assert base_install("tokenlane", set()) - {"pyjwt"} == listed
    assert len(listed) <= MOST_PACKAGES


def test_every_line_of_the_lock_is_a_pinned_version_with_hashes() -> None:
    """And so no index, no URL and no option."""
    assert re.sub(r"^#.*\n", "", ENTRY.sub("", LOCK), flags=re.MULTILINE) == ""


def test_the_lock_has_the_versions_of_the_tests() -> None:
    """Each version is in `constraints.txt`: `make lock` brings the lock up to date."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    tested = dict(line.split("==") for line in lines if "==" in line)
    by_name = {canonicalize_name(name): version for name, version in tested.items()}
    for name, version, marker, _ in ENTRY.findall(LOCK):
        other_system = bool(marker) and canonicalize_name(name) not in by_name
        assert other_system or by_name.get(canonicalize_name(name)) == version, name


def test_the_lock_meets_what_the_project_requires() -> None:
    """The base and every extra that `make lock` names, within the bounds of `pyproject.toml`."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    named = re.search(r"^LOCKED := (.+)$", makefile, re.MULTILINE)
    assert named is not None
    assert set(named[1].split()) == set(PROJECT["optional-dependencies"]) - {"all", "bench", "dev"}
    needed = [*map(Requirement, PROJECT["dependencies"]), *(it for name in named[1].split() for it in of_extra(name))]
    pinned = locked()
    unmet = [
        str(it) for it in needed if not all(map(it.specifier.contains, pinned.get(canonicalize_name(it.name), [""])))
    ]
    assert unmet == []


def test_two_builds_give_the_same_wheel(tmp_path: Path) -> None:
    """From different folders, whose files have other times."""
    hashes = set()
    for number, folder in enumerate((tmp_path / "one", tmp_path / "a" / "longer" / "path")):
        for name in ("config", "routing", "producer", "worker", "benches"):
            shutil.copytree(
                ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"), copy_function=shutil.copy
            )
        for name in ("pyproject.toml", "README.md", "LICENSE"):
            shutil.copy(ROOT / name, folder)
        os.utime(folder / "README.md", (1_000_000_000 + number, 1_000_000_000 + number))
        command = (sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder / "out"))
        environment = {**os.environ, "SOURCE_DATE_EPOCH": "1700000000"}
        subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
        (wheel,) = (folder / "out").glob("*.whl")
        hashes.add(hashlib.sha256(wheel.read_bytes()).hexdigest())
    assert len(hashes) == 1
