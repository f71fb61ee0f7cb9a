"""The shell scripts in config/, which make secrets and hand them to the Redis server."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path

from tests.repository import ROOT

PASSWORDS = {f"{user}_PASSWORD": f"of-{user}" for user in ("ADMIN", "AGENT", "WORKER", "ROUTER", "OPS")}


def run(script: str, *arguments: Path | str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a script of config/ with these variables besides those of the tests."""
    environment = os.environ | variables
    return subprocess.run(
        ["sh", ROOT / "config" / script, *arguments], env=environment, capture_output=True, text=True, check=False
    )


def test_secrets_in_use_are_never_replaced(tmp_path: Path) -> None:
    """A second call says so and leaves the file, which holds the pool's key, as it is."""
    file = tmp_path / ".env"
    assert run("new_env.sh", file).returncode == 0
    made = file.read_bytes()
    assert file.stat().st_mode & 0o777 == 0o600
    again = run("new_env.sh", file)
    assert (again.returncode, str(file) in again.stderr) == (1, True)
    assert file.read_bytes() == made


def test_no_variable_changes_what_the_file_holds(tmp_path: Path) -> None:
    """With CDPATH set, `cd` prints the folder that it finds."""
    file = tmp_path / ".env"
    assert run("new_env.sh", file, CDPATH=str(ROOT)).stdout == ""
    names = [line.partition("=")[0] for line in file.read_text(encoding="utf-8").splitlines() if line[:1].isalpha()]
    example = (ROOT / ".env.example").read_text(encoding="utf-8")
    assert names == [line.partition("=")[0] for line in example.splitlines() if line[:1].isalpha()]


def test_each_user_gets_the_hash_of_the_password(tmp_path: Path) -> None:
    """The file has no placeholder left, and the command runs after it is written."""
    template, file = ROOT / "config" / "users.acl", tmp_path / "users.acl"
    done = run("fill_users.sh", template, file, "cat", file, **PASSWORDS)
    assert (done.returncode, done.stdout) == (0, file.read_text(encoding="utf-8"))
    assert "HASH_OF" not in done.stdout
    for password in PASSWORDS.values():
        assert f"#{hashlib.sha256(password.encode()).hexdigest()}" in done.stdout


def test_a_user_without_a_password_is_refused(tmp_path: Path) -> None:
    """A missing or empty variable is named, nothing is written, and the command does not run."""
    template, file = ROOT / "config" / "users.acl", tmp_path / "users.acl"
    for passwords in (PASSWORDS | {"ROUTER_PASSWORD": ""}, {"AGENT_PASSWORD": "x", "ADMIN_PASSWORD": "y"}):
        refused = run("fill_users.sh", template, file, "touch", tmp_path / "ran", **passwords)
        missing = "ROUTER_PASSWORD" if len(passwords) > 2 else "WORKER_PASSWORD"
        assert (refused.returncode, missing in refused.stderr) == (1, True)
    assert list(tmp_path.iterdir()) == []
