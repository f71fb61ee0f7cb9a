from __future__ import annotations

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokenlane.config.settings.toml_lines import line_of, lines_of

TEXT = """\
# a comment = 1
[defaults]
provider = "x"  # [not.a.table]

[lanes."gpu 0"]
models = [
    "a",
    "b",
]
text = '''
[no.table]
key = 1
'''
after.dotted = 1
inline = { one = 1, two = { three = 3 } }
[[roles.coder.route]]
lane = "a"
[[roles.coder.route]]
lane = "b"
"""


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("defaults",), 2),
        (("defaults", "provider"), 3),
        (("lanes", "gpu 0"), 5),
        (("lanes", "gpu 0", "models"), 6),
        (("lanes", "gpu 0", "models", 1), 6),
        (("lanes", "gpu 0", "text"), 10),
        (("lanes", "gpu 0", "after", "dotted"), 14),
        (("lanes", "gpu 0", "inline", "two", "three"), 15),
        (("roles", "coder", "route", 0, "lane"), 17),
        (("roles", "coder", "route", 1), 18),
        (("roles", "coder", "route", 1, "lane"), 19),
        (("nothing", "here"), None),
    ],
)
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_every_key_has_its_line(path: tuple[str | int, ...], line: int | None, ending: str) -> None:
    """Tables, keys over several lines, dotted and inline ones are found, and nothing inside a text is taken for one."""
    assert line_of(lines_of(TEXT.replace("\n", ending)), path) == line


keys = st.sampled_from(["a", "b", '"c d"', "e.f"])
values = st.sampled_from(["1", '"x"', "[\n 1,\n 2 ]", '"""\n[a]\nb = 1\n"""', "{ g = 1 }"])


@given(st.lists(st.tuples(st.sampled_from(["", "[t]\n", "[u.v]\n", "[[w]]\n", "# c\n\n"]), keys, values), max_size=6))
def test_each_key_stands_where_its_line_says(statements: list[tuple[str, str, str]]) -> None:
    """In any valid text, the line of a key holds the last part of its name."""
    text = "".join(f"{before}{key} = {value}\n" for before, key, value in statements)
    try:
        tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return
    for path, line in lines_of(text).items():
        if path and isinstance(path[-1], str):
            assert path[-1] in text.split("\n")[line - 1]
