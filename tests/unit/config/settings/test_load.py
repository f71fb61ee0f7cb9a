from __future__ import annotations

import os
import pwd
import socket
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from redis.asyncio.connection import parse_url

from tokenlane.config.exit_codes import USAGE, ConfigError
from tokenlane.config.host.socket_urls import socket_of, socket_url
from tokenlane.config.host.up_registry import AlreadyRunning, RunningUp, announced, data_dir, only_up, running_up
from tokenlane.config.settings.load import NoPool, find_pool, lane_settings, pool_name
from tokenlane.config.settings.values import masked_url


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An environment that says nothing but where this user's things are."""
    for name in os.environ:
        if name.startswith("TOKENLANE_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("TOKENLANE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def listening() -> Iterator[Path]:
    """A unix socket that somebody listens on."""
    with TemporaryDirectory(dir="/tmp") as folder, socket.socket(socket.AF_UNIX) as listener:
        path = Path(folder) / "redis.sock"
        listener.bind(str(path))
        listener.listen()
        yield path


def up_at(path: Path) -> RunningUp:
    """A running `up` whose server is at a socket."""
    return RunningUp(path, socket_url(path), None)


def test_the_data_directory_is_private(home: Path) -> None:
    """The data directory is the user's alone."""
    assert data_dir() == home
    assert home.stat().st_mode & 0o777 == 0o700


def test_the_pool_named_wins(monkeypatch: pytest.MonkeyPatch, listening: Path) -> None:
    """The argument wins over the environment, that over a running `up`."""
    with announced(up_at(listening)):
        assert find_pool().url == socket_url(listening)
        monkeypatch.setenv("TOKENLANE_REDIS_URL", "redis://from-environment")
        assert find_pool().url == "redis://from-environment"
        assert find_pool("redis://named").url == "redis://named"


def test_no_pool_says_what_to_do() -> None:
    """With no pool named and none running, the error names all three ways to have one and exits 2."""
    with pytest.raises(NoPool) as missing:
        find_pool()
    assert all(way in str(missing.value) for way in ("tokenlane up", "--redis", "TOKENLANE_REDIS_URL"))
    assert missing.value.exit_code == USAGE


def test_a_dead_announcement_is_no_pool(listening: Path, tmp_path: Path) -> None:
    """What a killed `up` left behind is not taken for a pool, and does not stop the next one."""
    with announced(up_at(tmp_path / "gone.sock")):
        assert running_up() is None
        with announced(up_at(listening)):
            assert running_up() == up_at(listening)
    assert running_up() is None


def test_only_one_up_starts(home: Path) -> None:
    """Of two that start together one is refused, also before the first answers; afterwards the next may."""
    for _ in range(2):
        with only_up():
            with pytest.raises(AlreadyRunning):
                with only_up():
                    raise AssertionError("started")


@pytest.mark.parametrize("directory", [True, False])
def test_an_announcement_that_cannot_be_read(home: Path, directory: bool) -> None:
    """What is no announcement is none; one that cannot be written is told."""
    path = data_dir() / f"up-{socket.gethostname()}"
    if directory:
        path.mkdir()
        with pytest.raises(ConfigError, match=str(path)):
            with announced(up_at(home / "redis.sock")):
                raise AssertionError("announced")
    else:
        path.write_bytes(b"\xff\n\xff")
    assert running_up() is None


@pytest.mark.parametrize("name", ["plain", "odd ?a%20b#c:d@e", "Größe"])
def test_a_sockets_url(name: str) -> None:
    """Whatever its path holds, a socket's URL leads to it: ours and redis-py's reading agree."""
    path = Path("/tmp") / name / "redis.sock"
    url = socket_url(path, "se/same?")
    assert socket_of(url) == path
    read = parse_url(url)
    assert (read["path"], read["password"], read["db"]) == (str(path), "se/same?", 0)
    assert "same" not in masked_url(url)


def test_a_lane_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every variable of a lane finds its place, and an argument wins over it."""
    variables = {
        "LANE": "gpu0",
        "PROVIDER": "vllm",
        "ENDPOINT": "http://localhost:8000",
        "MODEL": "a/b, c",
        "CAPACITY": "4",
        "API_KEY": "sesame",
    }
    for name, value in variables.items():
        monkeypatch.setenv(f"TOKENLANE_{name}", value)
    lane = lane_settings()
    assert (lane.name, lane.provider, lane.endpoint) == ("gpu0", "vllm", "http://localhost:8000")
    assert (lane.models, lane.capacity) == (("a/b", "c"), 4)
    assert lane.api_key is not None
    assert lane.api_key.get_secret_value() == "sesame"
    given = lane_settings(lane="gpu1", models=("d",), capacity=1)
    assert (given.name, given.models, given.capacity, given.provider) == ("gpu1", ("d",), 1, "vllm")


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("localhost:8077", "http://localhost:8077"),
        ("gpu-1.lan:8000/v1", "http://gpu-1.lan:8000/v1"),
        ("user:hunter2@gpu:8000", None),
        ("user:4711@gpu:8000", None),
        ("ftp://gpu:8000", None),
    ],
)
def test_an_endpoint_without_a_scheme(written: str, meant: str | None) -> None:
    """The URL that was meant is shown, unless the text may hold a password."""
    with pytest.raises(ConfigError) as refused:
        lane_settings(provider="vllm", endpoint=written)
    if meant is None:
        assert written not in str(refused.value)
    else:
        assert f"{meant}?" in str(refused.value)


def test_an_empty_environment_is_a_builtin_lane_of_pool_main() -> None:
    """Nothing set gives the built-in provider on the pool `main`."""
    assert pool_name() == "main"
    assert pool_name("other") == "other"
    lane = lane_settings()
    assert (lane.provider, lane.endpoint, lane.models, lane.capacity) == ("builtin", None, (), None)
    assert lane.name.endswith("-builtin")


def test_a_wrong_variable_is_named_and_no_value_is_quoted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable that cannot be read is named; no value stands in the message, since it may be a secret."""
    monkeypatch.setenv("TOKENLANE_CAPACITY", "hunter2")
    with pytest.raises(ConfigError, match="TOKENLANE_CAPACITY") as wrong:
        lane_settings()
    assert "hunter2" not in str(wrong.value)


def test_a_user_without_a_home_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Such as an id without a name in a container: it has no llm.toml of its own, and must name its data directory."""

    def unknown(uid: int) -> object:
        raise KeyError(uid)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    for name in ("HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert lane_settings().endpoint is None
    monkeypatch.delenv("TOKENLANE_HOME")
    with pytest.raises(ConfigError, match="TOKENLANE_HOME"):
        data_dir()
