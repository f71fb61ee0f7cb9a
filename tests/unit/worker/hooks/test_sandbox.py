"""Plugins get no imports, a limit of computing and memory, and a new store for each call."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from tests.unit.worker.hooks.plugins import (
    BRIEF,
    COUNTER,
    ECHO,
    FAILS,
    FILLS_MEMORY,
    LOOPS,
    TAKES_ALL_MEMORY,
    TRAPS,
    WASI,
    WASI_COMPONENT,
    plugin,
)
from wasmtime import wat2wasm

from tokenlane.worker.hooks import sandbox as module
from tokenlane.worker.hooks.plugin_broken import PluginBroken
from tokenlane.worker.hooks.prompt_plugins import FUEL
from tokenlane.worker.hooks.sandbox import Sandbox

WRONG_TYPE = plugin().replace(b"(param i32 i32) (result i32) i32.const 1024", b"(param i32) (result i32) i32.const 0")


@pytest.fixture(scope="module")
def sandbox() -> Sandbox:
    return Sandbox()


@pytest.mark.parametrize("code", [BRIEF, bytes(wat2wasm(BRIEF))], ids=["text", "binary"])
def test_a_module_in_both_formats(code: bytes, sandbox: Sandbox) -> None:
    assert "Answer in one sentence." in sandbox.call(sandbox.compile(code), "{}", FUEL)


@pytest.mark.parametrize("text", ["", "a", "é€𐍈" * 1000])
def test_texts_go_in_and_out_unchanged(text: str, sandbox: Sandbox) -> None:
    assert sandbox.call(sandbox.compile(ECHO), text, FUEL) == text


def test_a_component_as_it_is(sandbox: Sandbox) -> None:
    """A component needs no wrapper: here it is the one into which a module is put."""
    component = module._as_component(BRIEF)
    assert component != BRIEF
    assert "suffix" in sandbox.call(sandbox.compile(component), "{}", FUEL)


def test_a_call_sees_nothing_of_the_call_before(sandbox: Sandbox) -> None:
    counter = sandbox.compile(COUNTER)
    assert sandbox.call(counter, "{}", FUEL) == sandbox.call(counter, "{}", FUEL) == '{"suffix": "1"}'


@pytest.mark.parametrize(
    ("code", "why"),
    [
        (b"", "compile"),
        (b"\0asm\x01\0\0\0rubbish", "compile"),
        (b"\xff\xfe", "compile"),
        (b"plain text", "compile"),
        (b"(module)", "render"),
        (b"(component)", "render"),
        (WRONG_TYPE, "compile"),
        (b'(component (instance $i) (export "tokenlane:prompt/template@1.0.0" (instance $i)))', "render"),
        (WASI, "wasi_snapshot_preview1"),
        (WASI_COMPONENT, "wasi:cli/environment@0.2.0"),
    ],
)
def test_what_is_no_plugin_is_refused(code: bytes, why: str, sandbox: Sandbox) -> None:
    """The error names what is missing, and the import that a plugin needs."""
    with pytest.raises(PluginBroken, match=why):
        sandbox.compile(code)


@pytest.mark.parametrize(
    ("code", "why"),
    [
        (TRAPS, "unreachable"),
        (LOOPS, "fuel"),
        (FILLS_MEMORY, "fuel"),
        (TAKES_ALL_MEMORY, "unreachable"),
        (plugin(pages=1100), "memory"),
        (plugin(body="i32.const 70000"), "bounds"),
        (plugin(body="(i32.store8 (i32.const 2048) (i32.const 255)) i32.const 1024"), "utf-8"),
        (plugin(body="(i32.store8 (i32.const 1024) (i32.const 7)) i32.const 1024"), "discriminant"),
    ],
)
def test_a_call_that_breaks_off_is_an_error(code: bytes, why: str, sandbox: Sandbox) -> None:
    with pytest.raises(PluginBroken, match=why) as raised:
        sandbox.call(sandbox.compile(code), '{"user": "a secret"}', FUEL)
    assert "secret" not in str(raised.value)


def test_an_error_of_the_plugin_is_a_detail(sandbox: Sandbox) -> None:
    """It may quote a prompt, so the message does not have it."""
    with pytest.raises(PluginBroken) as raised:
        sandbox.call(sandbox.compile(FAILS), "{}", FUEL)
    assert raised.value.detail == "no day given for a secret"
    assert "day" not in str(raised.value)


def test_a_call_on_another_thread_is_interrupted(sandbox: Sandbox) -> None:
    """With so much fuel it would run for hours."""
    loops, whys = sandbox.compile(LOOPS), []

    def call() -> None:
        try:
            sandbox.call(loops, "{}", 2**62)
        except PluginBroken as error:
            whys.append(str(error))

    thread = threading.Thread(target=call)
    thread.start()
    while thread.is_alive():
        sandbox.interrupt()
        thread.join(0.01)
    assert whys == ["broke off: it took too long"]


def test_machine_code_is_kept(tmp_path: Path) -> None:
    """Only this user may change the code that a later process runs."""
    cache = tmp_path / "a 'folder'"
    for _ in range(2):
        sandbox = Sandbox(cache)
        assert "suffix" in sandbox.call(sandbox.compile(BRIEF), "{}", FUEL)
    assert [path for path in (cache / "code").rglob("*") if path.is_file()]
    assert cache.stat().st_mode & 0o777 == 0o700


def test_without_a_place_for_machine_code_it_is_compiled_each_time(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    sandbox = Sandbox(tmp_path / "file" / "cache")
    assert "suffix" in sandbox.call(sandbox.compile(BRIEF), "{}", FUEL)
    assert str(tmp_path / "file" / "cache") in caplog.text
