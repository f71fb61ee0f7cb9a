"""A worker finds plugins by the hash of their files, compiles each once, and limits their time."""

from __future__ import annotations

import asyncio
import logging
import threading
from pathlib import Path

import pytest
from tests.unit.worker.hooks.plugins import BRIEF, FAILS, LOOPS, TRAPS, WASI, plugin
from tests.waiting import until

from tokenlane.routing.contract.errors import PluginFailed
from tokenlane.routing.contract.requests import ChatRequest, Message
from tokenlane.routing.support.tasks import background
from tokenlane.worker.hooks import prompt_plugins as module
from tokenlane.worker.hooks import sandbox
from tokenlane.worker.hooks.prompt_plugins import PluginMissing, PromptPlugins, digest_of

ASKED = ChatRequest(role="r", messages=[Message(role="user", content="a secret")])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "plugins").mkdir()
    return tmp_path / "plugins"


async def rendered(plugins: PromptPlugins, code: bytes) -> object:
    return (await plugins.render(digest_of(code), ASKED, "m1")).messages[-1].content


async def test_a_plugin_is_found_by_its_hash(folder: Path) -> None:
    """Whatever its file is called, also if it comes later. Other files do not matter."""
    (folder / "folder").mkdir()
    (folder / "link").symlink_to("nothing")
    (folder / ".hidden").write_bytes(b"")
    plugins = PromptPlugins(folder)
    with pytest.raises(PluginMissing, match=digest_of(BRIEF)):
        await rendered(plugins, BRIEF)
    (folder / "any name.txt").write_bytes(BRIEF)
    assert await rendered(plugins, BRIEF) == "a secret\n\nAnswer in one sentence."


async def test_a_file_that_changes_is_another_plugin(folder: Path) -> None:
    """The compiled plugin stays, and the new one is found."""
    new = plugin({"suffix": "!"})
    (folder / "p.wasm").write_bytes(BRIEF)
    plugins = PromptPlugins(folder)
    await plugins.prepare()
    (folder / "p.wasm").write_bytes(new)
    assert await rendered(plugins, new) == "a secret!"
    assert await rendered(plugins, BRIEF) == "a secret\n\nAnswer in one sentence."


async def test_a_plugin_is_compiled_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also by many requests at once, of which the first is cancelled; and one that does not compile is tried once."""
    compiled: list[bytes] = []

    class Counting(sandbox.Sandbox):
        def compile(self, code: bytes) -> sandbox.CompiledPlugin:
            compiled.append(code)
            return super().compile(code)

    monkeypatch.setattr(sandbox, "Sandbox", Counting)
    for number, code in enumerate((BRIEF, WASI)):
        (folder / str(number)).write_bytes(code)
    plugins = PromptPlugins(folder)
    first = asyncio.ensure_future(rendered(plugins, BRIEF))
    await asyncio.sleep(0)
    first.cancel()
    calls = (rendered(plugins, code) for code in (BRIEF, WASI) * 5)
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(result) for result in results] == [str, PluginFailed] * 5
    assert sorted(compiled) == sorted((BRIEF, WASI))


async def test_a_compiler_that_fails_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It fails the request, not the worker, and the plugin is compiled again for the next one."""
    (folder / "a").write_bytes(BRIEF)
    plugins = PromptPlugins(folder)
    with monkeypatch.context() as patched:
        patched.setattr(sandbox.Sandbox, "compile", lambda self, code: 1 // 0)
        with pytest.raises(PluginFailed):
            await rendered(plugins, BRIEF)
    assert await rendered(plugins, BRIEF)


@pytest.mark.parametrize(
    ("code", "why"),
    [(TRAPS, "unreachable"), (WASI, "wasi_snapshot_preview1"), (plugin([1]), "object"), (FAILS, "error")],
)
async def test_a_plugin_that_fails_is_named_and_quotes_nothing(folder: Path, code: bytes, why: str) -> None:
    (folder / "p").write_bytes(code)
    with pytest.raises(PluginFailed, match=why) as raised:
        await rendered(PromptPlugins(folder), code)
    assert digest_of(code) in raised.value.message
    assert "secret" not in str(raised.value)
    assert not isinstance(raised.value, PluginMissing)
    assert ("secret" in raised.value.detail) == (code == FAILS)


async def test_a_call_has_a_limit_of_time(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With so much fuel it would run for hours. The plugin after it works."""
    monkeypatch.setattr(module, "FUEL", 2**62)
    monkeypatch.setattr(module, "_CALL_S", 0.02)
    (folder / "loops").write_bytes(LOOPS)
    (folder / "brief").write_bytes(BRIEF)
    plugins = PromptPlugins(folder)
    await plugins.prepare()
    with pytest.raises(PluginFailed, match="took too long"):
        await rendered(plugins, LOOPS)
    monkeypatch.setattr(module, "_CALL_S", 60)
    assert await rendered(plugins, BRIEF) == "a secret\n\nAnswer in one sentence."


async def test_a_cancelled_call_ends_its_thread(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FUEL", 2**62)
    (folder / "loops").write_bytes(LOOPS)
    plugins = PromptPlugins(folder)
    await plugins.prepare()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await rendered(plugins, LOOPS)
    await asyncio.get_running_loop().shutdown_default_executor()  # waits for its threads


async def test_what_a_worker_says_at_its_start(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Each plugin with its hash and file, and why one cannot be used."""
    caplog.set_level(logging.INFO)
    (folder / "a.wat").write_bytes(BRIEF)
    (folder / "b.wasm").write_bytes(WASI)
    await PromptPlugins(folder).prepare()
    good, bad = caplog.records
    assert (good.levelname, bad.levelname) == ("INFO", "WARNING")
    assert f"{digest_of(BRIEF)} (a.wat)" in good.getMessage()
    assert "wasi_snapshot_preview1" in bad.getMessage()


async def test_a_file_that_cannot_be_read_is_logged_once(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with (folder / "large").open("wb") as file:
        file.truncate(module.MOST_BYTES + 1)
    plugins = PromptPlugins(folder)
    for _ in range(2):
        await plugins.prepare()
    (record,) = caplog.records
    assert "large" in record.getMessage()


@pytest.mark.parametrize("is_installed", [True, False])
async def test_a_worker_without_plugins_says_what_to_do(is_installed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not is_installed:
        monkeypatch.setattr(module, "find_spec", lambda _: None)
    with pytest.raises(PluginMissing, match=r"\[advanced\]" if is_installed else "extra `plugins`"):
        await rendered(PromptPlugins(), BRIEF)


async def test_a_skipped_plugin_is_logged_once_a_minute(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugins, failed = PromptPlugins(), PluginFailed("Prompt plugin x broke off.", detail="a secret")
    for role in ("planner", "coder", "planner"):
        plugins.warn(failed, role)
    assert len(caplog.records) == 2
    monkeypatch.setattr(module, "_WARNING_S", 0.0)
    plugins.warn(failed, "planner")
    assert len(caplog.records) == 3
    assert "planner" in caplog.text
    assert "secret" not in caplog.text


async def test_a_plugin_that_was_slow_returns_to_the_event_loop(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After its latest three calls were slow, it is called on a thread, and a minute later on this one."""
    (folder / "p").write_bytes(BRIEF)
    plugins, called_here = PromptPlugins(folder), list[bool]()
    await plugins.prepare()
    loop = asyncio.get_running_loop()

    def call(self: sandbox.Sandbox, plugin: sandbox.CompiledPlugin, text: str, fuel: int) -> str:
        called_here.append(threading.current_thread() is threading.main_thread())
        return "{}"

    monkeypatch.setattr(sandbox.Sandbox, "call", call)
    monkeypatch.setattr(module, "_QUICK_S", -1.0)  # every call is slow
    for _ in range(5):
        await rendered(plugins, BRIEF)
    monkeypatch.setattr(module, "_QUICK_S", 1000.0)
    await rendered(plugins, BRIEF)
    with monkeypatch.context() as later:
        a_minute_later = loop.time() + module._ON_A_THREAD_S
        later.setattr(loop, "time", lambda: a_minute_later)
        await rendered(plugins, BRIEF)
    assert called_here == [True] * 3 + [False] * 3 + [True]


async def test_lanes_of_one_process_share_their_plugins(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Each plugin is announced once."""
    caplog.set_level(logging.INFO)
    (folder / "p").write_bytes(BRIEF)
    plugins = PromptPlugins(folder)
    await asyncio.gather(plugins.prepare(), plugins.prepare())
    assert len(caplog.records) == 1


async def test_which_plugins_are_usable(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that are compiled, also if they came later; it is not known before the directory was read."""
    monkeypatch.setattr(module, "_LOOK_EVERY_S", 0.0)
    (folder / "a").write_bytes(BRIEF)
    (folder / "b").write_bytes(WASI)
    plugins = PromptPlugins(folder)
    assert plugins.usable is None
    async with background() as tasks:
        tasks.create_task(plugins.run())
        await until(lambda: plugins.usable == (digest_of(BRIEF),))
        (folder / "c").write_bytes(TRAPS)
        await until(lambda: plugins.usable == tuple(sorted((digest_of(BRIEF), digest_of(TRAPS)))))
