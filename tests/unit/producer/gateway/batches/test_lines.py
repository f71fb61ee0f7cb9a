"""The lines of a batch's input, and what is wrong with them."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenlane.producer.gateway.batches.lines import LINE_LIMIT_BYTES, MOST_LINES, check, numbered

CHAT = "/v1/chat/completions"


def line(custom_id: str = "a", **changes: object) -> bytes:
    fields = {"custom_id": custom_id, "method": "POST", "url": CHAT, "body": {"model": "m", "messages": []}}
    return json.dumps(fields | changes).encode()


@given(lines=st.lists(st.binary(max_size=8).map(lambda text: text.replace(b"\n", b"")), max_size=8), data=st.data())
def test_pieces_of_any_size_have_the_same_lines(lines: list[bytes], data: st.DataObject) -> None:
    content = b"\n".join(lines)
    pieces = []
    while content:
        size = data.draw(st.integers(1, len(content)))
        pieces.append(content[:size])
        content = content[size:]
    expected = [(number, text.strip()) for number, text in enumerate(lines, 1) if text.strip()]
    assert [tuple(each) for each in numbered(pieces)] == expected


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (b"{", "invalid_json_line"),
        (b"[]", "invalid_line"),
        (b"\xff", "invalid_json_line"),
        (b"[" * 100_000, "invalid_json_line"),
        (line(custom_id=""), "invalid_line"),
        (line(custom_id=7), "invalid_line"),  # type: ignore[arg-type]  # what a client may send
        (line(body=[]), "invalid_line"),
        (line(method="GET"), "invalid_method"),
        (line(url="/v1/embeddings"), "mismatched_url"),
        (line(body={"stream": True}), "stream_not_supported"),
        (line("first"), "duplicate_custom_id"),
        (b"x" * (LINE_LIMIT_BYTES + 1), "line_too_long"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_wrong_line_is_named(text: bytes, code: str) -> None:
    total, errors = check([line("first"), b"\n\n", text, b"\n", line("last")], CHAT)
    assert (total, [(error.code, error.line) for error in errors]) == (3, [(code, 3)])


def test_a_file_has_at_least_one_line_and_not_too_many() -> None:
    assert [error.code for error in check([b"\n \n"], CHAT)[1]] == ["empty_file"]
    many = (line(str(number)) + b"\n" for number in range(MOST_LINES + 1))
    assert [error.code for error in check(many, CHAT)[1]] == ["too_many_lines"]


def test_no_error_quotes_the_line() -> None:
    _, errors = check([b'{"custom_id": "a", "method": "secret", "url": "secret", "body": "secret"}'], CHAT)
    assert errors
    assert "secret" not in repr(errors)
