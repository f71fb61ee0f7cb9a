"""Compiles prompt plugins and calls them in a sandbox without imports. The only module that knows wasmtime.

A plugin is a component of the world in prompt.wit. A core module with the exports that a component is made of is made
into one, so that authors need no tools for components. The function has only texts: lifting records costs wasmtime's
Python binding several times as much as the rest of the call.
"""

from __future__ import annotations

import json
import logging
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from wasmtime import Config, Engine, Store, WasmtimeError, wat2wasm
from wasmtime.component import Component, ComponentInstanceType, ExportIndex, FuncType, Linker, ResultType, String

from tokenlane.config.host.private_files import write_private

from .plugin_broken import OutOfFuel, PluginBroken

logger = logging.getLogger(__name__)

INTERFACE = "tokenlane:prompt/template@1.0.0"
MEMORY_BYTES = 64 * 1024 * 1024

_MOST_INSTANCES, _MOST_MEMORIES = 100, 4
"""Enough for a component with an interpreter of Python."""
_CORE_MODULE = b"\0asm\x01\0\0\0"
_MISSING_IMPORT = re.compile(r"instantiation argument named `([^`]+)`")
_NO_FUEL = "all fuel consumed by WebAssembly"
_TRAP = re.compile(r"wasm trap: (.+)")
_COMPONENT_OF_A_MODULE = f"""(component
  (core module $module
    (memory (export "memory") 0)
    (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) unreachable)
    (func (export "{INTERFACE}#render") (param i32 i32) (result i32) unreachable))
  (core instance $instance (instantiate $module))
  (alias core export $instance "{INTERFACE}#render" (core func $code))
  (alias core export $instance "memory" (core memory $memory))
  (alias core export $instance "cabi_realloc" (core func $realloc))
  (func $render (param "input" string) (result (result string (error string)))
    (canon lift (core func $code) (memory $memory) (realloc $realloc)))
  (instance $template (export "render" (func $render)))
  (export "{INTERFACE}" (instance $template)))"""


@dataclass(frozen=True)
class CompiledPlugin:
    """A plugin as machine code, and where its function is."""

    component: Component
    render: ExportIndex


class Sandbox:
    """Compiles plugins and calls them, on the caller's thread and without Python's lock.

    Args:
        cache: a directory for machine code, which only this user may write; None to keep nothing.
    """

    def __init__(self, cache: Path | None = None) -> None:
        self._engine = Engine(_config(cache))
        self._linker = Linker(self._engine)

    def compile(self, code: bytes) -> CompiledPlugin:
        """Compile a plugin, in the binary or the text format of WebAssembly.

        Raises:
            PluginBroken: the code is not valid, needs imports, or is not a prompt plugin.
        """
        try:
            component = Component(self._engine, _as_component(code))
        except WasmtimeError as error:
            missing = _MISSING_IMPORT.search(str(error))
            raise _needs(missing[1]) if missing else PluginBroken(f"does not compile: {_reason(error)}") from None
        if imports := component.type.imports(self._engine):
            raise _needs(", ".join(sorted(imports)))
        interface = component.get_export_index(INTERFACE)
        render = None if interface is None else component.get_export_index("render", interface)
        if render is None or not self._has_right_type(component):
            raise PluginBroken(f"does not export `render` of {INTERFACE}")
        return CompiledPlugin(component, render)

    def call(self, plugin: CompiledPlugin, text: str, fuel: int) -> str:
        """Call the plugin in a new store, so that no call sees anything of an earlier one.

        Args:
            fuel: how much it may compute: about one unit for each instruction, and for each byte of a large copy. The
                same input uses as much on every host.

        Raises:
            OutOfFuel: the plugin used up its fuel.
            PluginBroken: the plugin trapped, was interrupted, or returned an error.
        """
        store = Store(self._engine)
        try:
            store.set_limits(memory_size=MEMORY_BYTES, memories=_MOST_MEMORIES, instances=_MOST_INSTANCES)
            store.set_fuel(fuel)
            store.set_epoch_deadline(1)
            render = self._linker.instantiate(store, plugin.component).get_func(store, plugin.render)
            assert render is not None
            result = render(store, text)
        except WasmtimeError as error:
            reason = _reason(error)
            kind = OutOfFuel if reason == _NO_FUEL else PluginBroken
            raise kind(f"broke off: {reason}") from None
        finally:
            store.close()
        if result.tag != "ok":
            raise PluginBroken("returned an error", detail=result.payload)
        return str(result.payload)

    def interrupt(self) -> None:
        """End the calls that run on other threads."""
        self._engine.increment_epoch()

    def _has_right_type(self, component: Component) -> bool:
        interface = component.type.exports(self._engine)[INTERFACE].ty
        assert isinstance(interface, ComponentInstanceType)
        kind = interface.exports(self._engine)["render"].ty
        result = kind.result if isinstance(kind, FuncType) else None
        return (
            isinstance(kind, FuncType)
            and isinstance(result, ResultType)
            and [type(part) for part in (*dict(kind.params).values(), result.ok, result.err)] == 3 * [String]
        )


def _config(cache: Path | None) -> Config:
    config = Config()
    config.consume_fuel = True
    config.epoch_interruption = True
    # Else the same input could give different prompts on different processors.
    config.cranelift_nan_canonicalization = True
    config.wasm_relaxed_simd_deterministic = True
    if cache is not None:
        settings = cache / "wasmtime.toml"
        try:
            write_private(settings, f"[cache]\ndirectory = {json.dumps(str(cache / 'code'))}\n")
            config.cache = str(settings)
        except (OSError, WasmtimeError) as error:
            logger.warning("prompt plugins are compiled at each start: %s cannot be used: %s", cache, error)
    return config


def _as_component(code: bytes) -> bytes:
    """A component for these bytes: a core module is put into one."""
    binary = bytes(wat2wasm(code)) if not code.startswith(b"\0") else code
    if not binary.startswith(_CORE_MODULE):
        return binary
    before, after = _wrapper()
    return before + b"\x01" + _leb128(len(binary)) + binary + after


@cache
def _wrapper() -> tuple[bytes, bytes]:
    """A component's bytes before and after the section of its core module."""
    whole = bytes(wat2wasm(_COMPONENT_OF_A_MODULE))
    length, start = _read_leb128(whole, 9)
    return whole[:8], whole[start + length :]


def _leb128(number: int) -> bytes:
    digits = bytearray()
    while number > 0x7F:
        digits.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes((*digits, number))


def _read_leb128(data: bytes, at: int) -> tuple[int, int]:
    """The number at this place, and the place after it."""
    number = shift = 0
    while True:
        digit = data[at]
        number |= (digit & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if digit < 0x80:
            return number, at


def _needs(imports: str) -> PluginBroken:
    advice = "build it without WASI (componentize-py has the option --stub-wasi)"
    return PluginBroken(f"imports {imports}, and plugins get no imports: {advice}")


def _reason(error: WasmtimeError) -> str:
    """What went wrong, in wasmtime's words, without the functions on the stack or the lines of a text."""
    what, _, causes = str(error).partition("Caused by:")
    lines = [re.sub(r"^\d+: ", "", line.strip()) for line in (causes or what).strip().splitlines()]
    trap = _TRAP.search(causes)
    if trap and trap[1] == "interrupt":
        return "it took too long"
    return (trap[1] if trap else lines[-1 if causes else 0] if lines else "no reason is known").rstrip(".")
