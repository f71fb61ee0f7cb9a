"""Fault files: what they may hold, what they meet, and what is said about those that are wrong."""

from __future__ import annotations

import inspect
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.repository import ROOT
from tests.verbs import run

from tokenlane.benches.commands.simulate import simulate
from tokenlane.benches.simulator.dialects.request_fields import parse
from tokenlane.benches.simulator.faults import Fault, Faults, parse_faults, read_faults
from tokenlane.benches.simulator.model.refusals import Refused
from tokenlane.config.exit_codes import USAGE, ConfigError

CHAT = "/api/chat"
KEYS = st.sampled_from([*Fault.model_fields, "nosuch"])
VALUES = (
    st.none() | st.booleans() | st.integers(-5, 700) | st.floats() | st.text(max_size=5) | st.lists(st.text(max_size=2))
)


def complaint_about(text: str, *, as_json: bool) -> str | None:
    """What is said about a file; None if it is right."""
    try:
        parse_faults(text, "f", as_json=as_json)
    except ConfigError as error:
        return str(error)
    return None


def met(faults: Faults, path: str = CHAT, model: str = "m") -> int | None:
    """The status of the fault that a chat meets."""
    fault = faults.next_fault(path, model, chats=path == CHAT)
    return fault.status if fault else None


def test_the_page_has_them_all() -> None:
    """The documentation names every key of a fault, and every option of the command."""
    page = (ROOT / "docs" / "simulator.md").read_text(encoding="utf-8")
    options = [f"--{name.replace('_', '-')}" for name in inspect.signature(simulate).parameters]
    assert [name for name in [*Fault.model_fields, *options] if f"`{name}`" not in page] == []


def test_nth_request() -> None:
    """A fault meets the requests from its own number on, so many times; 0 is for ever."""
    once = Faults([Fault(status=500, request=2)])
    assert [met(once) for _ in range(4)] == [None, 500, None, None]
    twice = Faults([Fault(status=500, times=2)])
    assert [met(twice) for _ in range(4)] == [500, 500, None, None]
    ever = Faults([Fault(status=500, request=2, times=0)])
    assert [met(ever) for _ in range(4)] == [None, 500, 500, 500]


def test_path_and_model() -> None:
    """Only requests that fit count; without a path that is chats; the first fault that is due is met."""
    faults = Faults([Fault(status=501, model="a*"), Fault(status=502, path="/api/p*"), Fault(status=503)])
    assert met(faults, "/api/tags") is None
    assert met(faults, "/api/pull") == 502
    assert met(faults, model="beta") == 503
    assert met(faults, model="alpha") == 501
    assert met(faults, model="alpha") is None


def test_both_forms(tmp_path: Path) -> None:
    """TOML tables and JSON objects say the same."""
    toml, as_json = tmp_path / "f.toml", tmp_path / "f.json"
    toml.write_text(
        '[[fault]]\nmodel = "m"\ncut_after = 3\nttft_ms = 5\npieces = ["a"]\n\n'
        '[[fault]]\nstatus = 429\nretry_after = "7"\n'
    )
    cut = {"model": "m", "cut_after": 3, "ttft_ms": 5, "pieces": ["a"]}
    as_json.write_text(json.dumps([cut, {"status": 429, "retry_after": "7"}]))
    both = [Fault(model="m", cut_after=3, ttft_ms=5, pieces=("a",)), Fault(status=429, retry_after="7")]
    assert read_faults(toml) == read_faults(as_json) == both
    toml.write_text("")
    assert read_faults(toml) == []


@given(text=st.text(max_size=200), as_json=st.booleans())
def test_any_text(text: str, as_json: bool) -> None:
    """Whatever a file holds, it is faults or a message about it."""
    complaint = complaint_about(text, as_json=as_json)
    assert complaint is None or complaint.startswith("f")


@given(st.lists(st.dictionaries(KEYS, VALUES, max_size=4), max_size=4))
def test_any_keys(entries: list[dict[str, object]]) -> None:
    """Any key with any value is taken, or refused with its line and its name."""
    text = json.dumps(entries, indent=1)
    complaint = complaint_about(text, as_json=True)
    if complaint is None:
        assert len(parse_faults(text, "f", as_json=True)) == len(entries)
        return
    assert complaint.startswith("f, line ")
    line = int(complaint.removeprefix("f, line ").partition(":")[0])
    key = text.split("\n")[line - 1].strip().partition(":")[0].strip('"')
    assert key in complaint


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[[fault]]\ncut_aftr = 1", "f, line 2: unknown key 'cut_aftr'. Did you mean 'cut_after'? Allowed: "),
        ("\n[[fault]]\n\nrequest = 0", "f, line 4: request: input should be greater than or equal to 1."),
        ("[[fault]]\n[[fault]]\nstatus = 'x'", "f, line 3: status: input should be a valid integer"),
        ("[[fault]]\ncut_after = true", "f, line 2: cut_after: input should be a valid integer"),
        ("[[fault]]\nttft_ms = false", "f, line 2: ttft_ms: input should be a valid number"),
        ("[[fault]]\ndrop = 1", "f, line 2: drop: input should be a valid boolean"),
        ("faults = []", "f, line 1: unknown key 'faults'."),
        ("[fault]\nstatus = 500", "f, line 1: write [[fault]] with two brackets"),
        ("fault = [1]", "f, line 1: a fault"),
        ("[[fault]\n", "f: not TOML"),
        ('[{\n "nosuch": 1}]', "f, line 2: unknown key 'nosuch'. Allowed: answers_as, "),
        ("{", "f, line 1: not JSON"),
        ("[1]", "f, line 1: a fault"),
        ("{}", "f, line 1: a fault file in JSON"),
    ],
)
def test_where_it_is_wrong(text: str, said: str) -> None:
    """The message has the line, the key and what is allowed; the last four are JSON."""
    as_json = text.startswith(("{", "[{", "[1"))
    with pytest.raises(ConfigError) as raised:
        parse_faults(text, "f", as_json=as_json)
    assert str(raised.value).startswith(said)


@pytest.mark.parametrize("pause", ["inf", "nan"])
@pytest.mark.parametrize("option", ["--ttft-ms", "--itl-ms", "--load-ms", "--pull-ms"])
def test_pauses_without_end_are_refused(
    option: str, pause: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Infinity is no number of milliseconds."""
    ended = run(capsys, monkeypatch, "simulate", option, pause)
    assert (ended.code, option in ended.error) == (USAGE, True)


@pytest.mark.parametrize("host", ["a..b", "a" * 64])
def test_a_host_that_cannot_be_one_is_refused(host: str) -> None:
    """No name server can be asked for it."""
    with pytest.raises(ConfigError, match="--host"):
        simulate(host=host)


def test_a_body_nested_without_end_is_no_json() -> None:
    """It is refused as what it is, rather than failing the server."""
    with pytest.raises(Refused):
        parse(b"[" * 100_000)
