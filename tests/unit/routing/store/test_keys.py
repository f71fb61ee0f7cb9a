from __future__ import annotations

import re
from importlib import resources

import pytest

from tokenlane.routing.store import keys, scripts
from tokenlane.routing.store.keys import Keys

FOLDER = resources.files("tokenlane.routing.store").joinpath("lua")
SCRIPTS, SHARED = (
    {file.name: file.read_text() for file in folder.iterdir() if file.name.endswith(".lua")}
    for folder in (FOLDER, FOLDER.joinpath("shared"))
)
LUA = SCRIPTS | SHARED


def table() -> set[str]:
    """The first column of the table of all keys."""
    rows = re.findall(r"^\| (.+?) +\|", keys.__doc__ or "", re.MULTILINE)
    return {name for row in rows for name in re.findall(r"`([^`]+)`", row)}


def built(pattern: str) -> set[str]:
    """What the scripts put behind a prefix."""
    return {found for text in LUA.values() for found in re.findall(pattern, text)}


def test_scripts_build_the_names_of_the_table() -> None:
    """The scripts use every key of the table but those of ARQ and the API keys, and no other."""
    others = {name for name in table() if name.startswith("arq:")} | {"api-keys"}
    stems = {re.sub(r"(:[A-Z]+)+.*$", ":", name) for name in table() - others}
    assert built(r"P \.\. '([a-z-]+:?)'") == stems
    ends = {found for name in table() for found in re.findall(r"^queue:Q(:[a-z]+:?)", name)}
    assert built(r"queue \.\. '(:[a-z]+:?)'") == ends


def test_scripts_build_the_channels_of_keys() -> None:
    """The channels the scripts publish on are those that `Keys` names."""
    names = Keys("main", 3)
    channels = {names.deltas(""), names.control(""), names.doorbell, names.lane_doorbell("")}
    assert {f"{{main}}:3:{name}" for name in built(r"CHANNEL \.\. '([a-z]+:?)'")} == channels


@pytest.mark.parametrize("name", sorted(SCRIPTS))
def test_scripts_open_with_what_they_take_and_answer(name: str) -> None:
    """Every script says what it does, its KEYS, ARGV and reply."""
    head, _, body = SCRIPTS[name].partition("\n\n")
    assert head.startswith("-- ")
    assert "-- KEYS  1 the pool's prefix" in head
    assert "-- reply " in head
    assert ("ARGV" in body) == ("-- ARGV  1 " in head)


@pytest.mark.parametrize("name", sorted(SCRIPTS))
def test_scripts_use_the_parts_they_need(name: str) -> None:
    """A script has every part of which it calls a function, and calls something of each part that it names."""
    text = scripts._source(name.removesuffix(".lua"), 0)
    defined = {part: re.findall(r"^local (?:function )?(\w+)", SHARED[part], re.MULTILINE) for part in SHARED}
    loaded = {part for part in SHARED if SHARED[part] in text}
    called = set(re.findall(r"(?<![.:\w])(\w+)\(", re.sub(r"--.*", "", text)))
    assert {part for part in SHARED if called & set(defined[part])} <= loaded
    for part in re.findall(r"[a-z_]+", "".join(re.findall(r"^-- uses +(.+)$", SCRIPTS[name], re.MULTILINE))):
        assert any(re.search(rf"\b{word}\b", SCRIPTS[name]) for word in defined[f"{part}.lua"])


def test_all_names_carry_the_tag() -> None:
    """Every key carries the pool's hash tag, every channel the database too."""
    names = Keys("blue", 2)
    job = names.arq("arq:job:")
    assert {names.prefix, names.policy, names.lane_queue("l")} >= {"{blue}:policy", "{blue}:lane:l"}
    for key in (names.prefix, names.policy, job, names.lane_queue("l"), names.lane_queue("l", "embed")):
        assert key.startswith("{blue}:")
    for channel in (names.deltas("x"), names.control("w"), names.doorbell, names.lane_doorbell("l"), names.hub("h")):
        assert channel.startswith("{blue}:2:")
