"""`tokenlane probe` as a person runs it, on a terminal and off one."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path

import pytest
from tests import pages
from tests.integration.servers import free_port

from tokenlane.benches.simulator import Simulator
from tokenlane.config.exit_codes import CANCELLED, FAILED, NOTHING_FOUND, OK, USAGE, ConfigError
from tokenlane.worker.commands.probe import probe

COMMAND = (sys.executable, "-m", "tokenlane.config", "probe")
# The installer as it runs: what it fetches is an archive with an `ollama` in it that only says its version.
FAKE_CURL = """\
#!/bin/sh
echo "curl $*" >> "$HOME/called"
while [ $# -gt 1 ]; do
    [ "$1" = --output ] && out=$2
    shift
done
case "$1" in *.tgz) ;; *) exit 22 ;; esac
mkdir -p "$HOME/made/bin"
printf '#!/bin/sh\\necho "ollama version is 9.9"\\n' > "$HOME/made/bin/ollama"
chmod +x "$HOME/made/bin/ollama"
tar -C "$HOME/made" -czf "$out" bin
"""
FAKE_SH = """\
#!/bin/sh
echo "sh $*" >> "$HOME/called"
exec /bin/sh "$@"
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home and working directory with nothing in it."""
    home = tmp_path / "home"
    home.mkdir()
    return home


@pytest.fixture
def nowhere() -> str:
    """An endpoint where nothing answers."""
    return f"http://127.0.0.1:{free_port()}"


def surroundings(home: Path, **more: str) -> dict[str, str]:
    """An environment without settings, whose user's directories are in `home`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TOKENLANE_")}
    own = {"HOME": str(home), "XDG_CONFIG_HOME": str(home), "TOKENLANE_HOME": str(home / "data"), "TERM": "dumb"}
    return {**kept, **own, **more}


def off_terminal(home: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Run it without a terminal."""
    return subprocess.run(
        [*COMMAND, *arguments],
        env=surroundings(home, **more),
        cwd=home,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


def on_terminal(
    home: Path, arguments: Sequence[str], dialogue: Sequence[tuple[str, str]], more: Mapping[str, str] | None = None
) -> tuple[int, str]:
    """Run it on a terminal and give each answer once its question stands there; exit code and all that was shown."""
    main, side = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, *arguments],
        env=surroundings(home, **(more or {})),
        cwd=home,
        stdin=side,
        stdout=side,
        stderr=side,
        start_new_session=True,
    )
    os.close(side)
    watchdog = threading.Timer(50, process.kill)
    watchdog.start()
    shown, waiting, seen = "", list(dialogue), 0
    try:
        while piece := _read(main):
            shown += piece
            while waiting and (place := shown.find(waiting[0][0], seen)) >= 0:
                question, words = waiting.pop(0)
                seen = place + len(question)
                os.write(main, f"{words}\n".encode())
        assert not waiting, f"never asked {waiting[0][0]!r}:\n{shown}"
        return process.wait(), shown.replace("\r\n", "\n")
    finally:
        watchdog.cancel()
        process.kill()
        process.wait()
        os.close(main)


def _read(terminal: int) -> str:
    try:
        return os.read(terminal, 65536).decode()
    except OSError:  # how Linux says that the other side is closed
        return ""


@contextmanager
def stand_ins(home: Path, **scripts: str) -> Iterator[dict[str, str]]:
    """An environment in which these commands are others."""
    folder = home / "stand-ins"
    folder.mkdir()
    for name, text in scripts.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    yield {"PATH": f"{folder}:/usr/bin:/bin"}


async def test_found(home: Path) -> None:
    """A server that is found is shown with its models, and the command ends with 0."""
    async with pages.serving(pages.LM_STUDIO) as url:
        ran = await asyncio.to_thread(off_terminal, home, "--endpoint", url)
    assert ran.returncode == OK
    assert f"{url}  lmstudio  yes: openai/gpt-oss-20b" in ran.stdout


async def test_an_openai_server_of_an_unknown_kind(home: Path) -> None:
    """It counts as usable, and the table has the options with which to serve it."""
    async with pages.serving(pages.OTHER_OPENAI) as url:
        ran = await asyncio.to_thread(off_terminal, home, "--endpoint", url)
        document = json.loads((await asyncio.to_thread(off_terminal, home, "--endpoint", url, "--json")).stdout)
    assert (ran.returncode, document["found"], document["places"][0]["models"]) == (OK, True, ["m"])
    assert f"{url}  openai    yes: m" in ran.stdout
    assert f"--provider openai --endpoint {url}" in ran.stdout


async def test_a_models_name_cannot_draw(home: Path, nowhere: str) -> None:
    """What would move the cursor or ring the bell is shown as a question mark, where models are chosen too."""
    async with Simulator(api="vllm", models=("\x1b[2Jm\x07\nn",)) as server:
        url = server.url
        ran = await asyncio.to_thread(off_terminal, home, "--endpoint", url)
        dialogue = [
            ("Your choice (1-4)", "2"),
            ("The endpoint's URL", url),
            ("The environment variable", ""),
            ("Which model [?[2Jm??n]", ""),
            ("Write the configuration to", ""),
        ]
        code, shown = await asyncio.to_thread(on_terminal, home, ["--endpoint", nowhere], dialogue)
    assert f"{url}  vllm      yes: ?[2Jm??n\n" in ran.stdout
    assert (code, set(shown) & {"\x1b", "\x07"}) == (OK, set())
    assert tomllib.loads((home / "llm.toml").read_text())["defaults"]["model"] == "\x1b[2Jm\x07\nn"


async def test_the_configured_endpoints_come_first(home: Path) -> None:
    """Endpoints of llm.toml are looked at before the usual ports, with the provider they are said to have."""
    async with pages.serving(pages.VLLM) as vllm, pages.serving(pages.OLLAMA) as wrong:
        (home / "llm.toml").write_text(f'[vllm]\nendpoint = "{vllm}"\n[tgi]\nendpoint = "{wrong}"\n')
        ran = await asyncio.to_thread(off_terminal, home, "--json")
    facts = json.loads(ran.stdout)
    assert (ran.returncode, facts["found"]) == (OK, True)
    seen = {place["endpoint"]: place for place in facts["places"]}
    assert set(list(seen)[:2]) == {vllm, wrong}
    assert seen[vllm]["models"] == ["qwen", "adapter"]
    assert seen[wrong]["problem"]["code"] == "other_server"
    assert "http://127.0.0.1:11434" in seen


def test_none_off_a_terminal(home: Path, nowhere: str) -> None:
    """Without a terminal it says why and what to do, asks nothing, and ends with 3."""
    ran = off_terminal(home, "--endpoint", nowhere)
    assert ran.returncode == NOTHING_FOUND
    assert "Nothing listens at this address" in ran.stdout
    for way in ("ollama pull", "api_key_env", "--provider builtin"):
        assert way in ran.stdout
    told = off_terminal(home, "--endpoint", nowhere, "--json")
    assert told.returncode == NOTHING_FOUND
    assert "ollama pull" in json.loads(told.stdout)["advice"]


def test_installing_ollama(home: Path, nowhere: str) -> None:
    """The script is shown before it is asked for, runs without root, and leaves Ollama in the user's own directory."""
    with stand_ins(home, curl=FAKE_CURL, sh=FAKE_SH, sudo=FAKE_SH) as more:
        code, shown = on_terminal(
            home, ["--endpoint", nowhere], [("Your choice (1-4)", "1"), ("Run this script? [y/N]", "y")], more
        )
    assert code == OK, shown
    assert shown.index("curl --fail") < shown.index("Run this script?")
    assert "ollama version is 9.9" in shown
    assert (home / ".local/bin/ollama").exists()
    called = (home / "called").read_text()
    assert "install_ollama.sh" in called
    assert "https://ollama.com/download/ollama-linux-" in called
    assert "sudo" not in called


def test_not_installing_ollama(home: Path, nowhere: str) -> None:
    """Without a yes nothing runs."""
    with stand_ins(home, curl=FAKE_CURL, sh=FAKE_SH) as more:
        code, _ = on_terminal(
            home, ["--endpoint", nowhere], [("Your choice (1-4)", "1"), ("Run this script? [y/N]", "")], more
        )
    assert code == FAILED
    assert not (home / "called").exists()


def test_an_install_that_fails(home: Path, nowhere: str) -> None:
    """A download that fails leaves nothing, and it is said what else there is."""
    with stand_ins(home, curl="#!/bin/sh\nexit 6\n") as more:
        code, shown = on_terminal(
            home, ["--endpoint", nowhere], [("Your choice (1-4)", "1"), ("Run this script? [y/N]", "y")], more
        )
    assert code == FAILED
    assert "https://ollama.com/download" in shown
    assert "Traceback" not in shown
    assert not (home / ".local").exists()


@pytest.mark.parametrize(("name", "code"), [("INT", 130), ("TERM", 143), ("HUP", 129)])
def test_an_install_that_is_stopped(home: Path, name: str, code: int) -> None:
    """It leaves nothing of what it fetched, and its exit code says by what it was stopped."""
    scratch = home / "tmp"
    scratch.mkdir()
    curl = f'#!/bin/sh\nls "$TMPDIR" > "$HOME/called"\nkill -{name} 0\nexec sleep 20\n'
    with stand_ins(home, curl=curl) as more:
        script = str(files("tokenlane.worker") / "install_ollama.sh")
        ran = subprocess.run(
            ["sh", script],
            env=surroundings(home, TMPDIR=str(scratch), **more),
            start_new_session=True,
            timeout=15,
            check=False,
        )
    assert ran.returncode == code
    assert (home / "called").read_text()
    assert not list(scratch.iterdir())


def test_ctrl_c_while_it_installs(home: Path, nowhere: str) -> None:
    """The command ends as any that Ctrl-C ends, after the script has cleaned up, however long that takes."""
    scratch = home / "tmp"
    scratch.mkdir()
    curl, rm = "#!/bin/sh\nkill -INT 0\nexec sleep 20\n", '#!/bin/sh\nsleep 1\nexec /bin/rm "$@"\n'
    with stand_ins(home, curl=curl, rm=rm) as more:
        dialogue = [("Your choice (1-4)", "1"), ("Run this script? [y/N]", "y")]
        code, shown = on_terminal(home, ["--endpoint", nowhere], dialogue, {**more, "TMPDIR": str(scratch)})
    assert code == CANCELLED, shown
    assert "Traceback" not in shown
    until = time.monotonic() + 10
    while list(scratch.iterdir()) and time.monotonic() < until:
        time.sleep(0.05)
    assert not list(scratch.iterdir())


async def test_a_remote_endpoint(home: Path, nowhere: str) -> None:
    """The endpoint is tested with the key of the named variable, and llm.toml written; the key is not in it."""
    async with Simulator(api="openai", models=("m",), api_key="sk-topsecret") as remote:
        url = remote.url
        dialogue = [
            ("Your choice (1-4)", "2"),
            ("The endpoint's URL", f"{url}/v1"),
            ("The environment variable", "MY_KEY"),
            ("Which model", ""),
            ("Write the configuration to", ""),
        ]
        keys = {"MY_KEY": "sk-topsecret"}
        code, shown = await asyncio.to_thread(on_terminal, home, ["--endpoint", nowhere], dialogue, keys)
        assert code == OK, shown
        text = (home / "llm.toml").read_text()
        assert tomllib.loads(text) == {
            "defaults": {"provider": "openai", "model": "m"},
            "openai": {"endpoint": f"{url}/v1", "api_key_env": "MY_KEY"},
        }
        assert "topsecret" not in text + shown
        # What was written is configuration: the next look finds the endpoint by itself.
        again = await asyncio.to_thread(off_terminal, home, **keys)
        assert f"{url}/v1  openai    yes: m" in again.stdout
        # A file that is there stays as it is.
        code, shown = await asyncio.to_thread(on_terminal, home, ["--endpoint", nowhere], dialogue, keys)
        assert (code, (home / "llm.toml").read_text()) == (OK, text)
        assert str(text.splitlines()[0]) in shown


def test_a_remote_endpoint_that_does_not_answer(home: Path, nowhere: str) -> None:
    """What was tested and does not work is not written."""
    dialogue = [("Your choice (1-4)", "2"), ("The endpoint's URL", nowhere), ("The environment variable", "")]
    code, shown = on_terminal(home, ["--endpoint", nowhere], dialogue)
    assert code == FAILED
    assert "cannot be used: Nothing listens at this address" in shown
    assert not (home / "llm.toml").exists()


async def test_a_remote_endpoint_that_guards_its_chats(home: Path, nowhere: str) -> None:
    """One that lists its models for anybody is asked for a token as well; what it says to that is told."""
    async with Simulator(api="tgi", api_key="sk-1") as remote:
        dialogue = [
            ("Your choice (1-4)", "2"),
            ("The endpoint's URL", remote.url),
            ("The environment variable", ""),
            ("Which model", ""),
        ]
        code, shown = await asyncio.to_thread(on_terminal, home, ["--endpoint", nowhere], dialogue)
        assert code == FAILED
        assert f"{remote.url} lists its models, but a chat with sim failed" in shown
        assert "requires an API key" in shown
        assert not (home / "llm.toml").exists()
        dialogue[2] = ("The environment variable", "MY_KEY")
        dialogue.append(("Write the configuration to", ""))
        code, shown = await asyncio.to_thread(on_terminal, home, ["--endpoint", nowhere], dialogue, {"MY_KEY": "sk-1"})
        assert code == OK, shown
        *_, chat = remote.log
        assert (chat.sent, json.loads(chat.body)["max_tokens"]) == (1, 1)


async def test_what_cannot_be_written_is_told(home: Path, nowhere: str) -> None:
    """A folder that is not there is one message, with what was to be written."""
    dialogue = [
        ("Your choice (1-4)", "2"),
        ("The endpoint's URL", ""),
        ("The environment variable", ""),
        ("Which model", ""),
        ("Write the configuration to", "no/such/folder/llm.toml"),
    ]
    async with Simulator(api="openai") as remote:
        url = remote.url
        dialogue[1] = (dialogue[1][0], url)
        code, shown = await asyncio.to_thread(on_terminal, home, ["--endpoint", nowhere], dialogue)
    assert code == FAILED
    assert "cannot be written" in shown
    assert f'endpoint = "{url}"' in shown
    assert "Traceback" not in shown


def test_a_key_in_place_of_its_variable(home: Path, nowhere: str) -> None:
    """A key that is given where its variable's name is asked for is neither taken nor repeated by us."""
    dialogue = [
        ("Your choice (1-4)", "2"),
        ("The endpoint's URL", nowhere),
        ("The environment variable", "sk-top-secret"),
    ]
    code, shown = on_terminal(home, ["--endpoint", nowhere], dialogue)
    assert code == FAILED
    assert "export NAME=" in shown
    assert shown.count("sk-top-secret") == 1  # the terminal's own echo


@pytest.mark.parametrize("url", ["https://me:top-secret@model.example", "https://model.example/?key=top-secret"])
def test_a_remote_endpoint_with_a_secret(home: Path, nowhere: str, url: str) -> None:
    """A password does not go into llm.toml, which others may read: it is said how a key is given."""
    dialogue = [("Your choice (1-4)", "2"), ("The endpoint's URL", url)]
    code, shown = on_terminal(home, ["--endpoint", nowhere], dialogue)
    assert code == FAILED
    assert "environment variable" in shown
    assert shown.count("top-secret") == 1  # the terminal's own echo
    assert not (home / "llm.toml").exists()


def test_the_builtin(home: Path, nowhere: str) -> None:
    """The built-in model is one command away, and told so."""
    code, shown = on_terminal(home, ["--endpoint", nowhere], [("Your choice (1-4)", "9"), ("Your choice (1-4)", "3")])
    assert code == OK
    assert "tokenlane up --provider builtin" in shown


def test_a_wrong_configuration(home: Path) -> None:
    """A configuration that is wrong is an error of use, not a server that is missing."""
    (home / "llm.toml").write_text("[vllm]\nendpoints = 1\n")
    ran = off_terminal(home)
    assert ran.returncode == USAGE
    assert "endpoints" in ran.stderr


@pytest.mark.parametrize("endpoint", ["nonsense", "ftp://gpu:1", "http://gpu:0"])
def test_what_is_no_url_is_wrong_usage(endpoint: str) -> None:
    """It is an error of the command line, not a place where no model server was found."""
    with pytest.raises(ConfigError) as raised:
        probe(endpoint=[endpoint])
    assert raised.value.exit_code == USAGE
    assert "--endpoint" in str(raised.value)
