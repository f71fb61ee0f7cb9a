"""Prompt plugins in WebAssembly's text format, for tests."""

from __future__ import annotations

import json

from tests.repository import ROOT

BRIEF = (ROOT / "docs" / "example-plugins" / "brief.wat").read_bytes()
"""The example of the documentation: appends a sentence to the user's last message."""


def plugin(
    output: object = None, *, body: str = "i32.const 1024", fields: str = "", is_error: bool = False, pages: int = 1
) -> bytes:
    """A core module that returns this output as JSON, or whatever `body` does before."""
    data = (output if isinstance(output, str) else json.dumps(output or {})).encode()
    result = b"".join(number.to_bytes(4, "little") for number in (is_error, 2048, len(data)))
    return f"""(module {fields}
      (memory (export "memory") {pages})
      (data (i32.const 2048) "{_escaped(data)}")
      (data (i32.const 1024) "{_escaped(result)}")
      (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) i32.const 16384)
      (func (export "tokenlane:prompt/template@1.0.0#render") (param i32 i32) (result i32) {body}))""".encode()


def _escaped(data: bytes) -> str:
    return "".join(f"\\{byte:02x}" for byte in data)


ECHO = plugin(
    body="""
      (i32.store (i32.const 1028) (local.get 0))
      (i32.store (i32.const 1032) (local.get 1))
      i32.const 1024"""
)
"""Returns its input, which is nonsense as an output."""

COUNTER = plugin(
    {"suffix": "0"},
    fields="(global $calls (mut i32) (i32.const 48))",
    body="""
      (global.set $calls (i32.add (global.get $calls) (i32.const 1)))
      (i32.store8 (i32.const 2060) (global.get $calls))
      i32.const 1024""",
)
"""Counts its calls in a global variable, and appends the count."""

TRAPS = plugin(body="unreachable")
LOOPS = plugin(body="(loop br 0) unreachable")
FILLS_MEMORY = plugin(body="(loop (memory.fill (i32.const 0) (i32.const 0) (i32.const 65536)) br 0) unreachable")
TAKES_ALL_MEMORY = plugin(
    body="""(if (i32.eq (memory.grow (i32.const 1100)) (i32.const -1)) (then unreachable)) i32.const 1024"""
)
FAILS = plugin("no day given for a secret", is_error=True)
WASI = plugin(fields='(import "wasi_snapshot_preview1" "random_get" (func (param i32 i32) (result i32)))')
WASI_COMPONENT = b'(component (import "wasi:cli/environment@0.2.0" (instance)))'
