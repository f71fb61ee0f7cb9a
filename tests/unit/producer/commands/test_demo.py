from __future__ import annotations

import io

import pytest
from rich.console import Console

from tokenlane.producer import Usage
from tokenlane.producer.commands.demo import _next_steps, _summary, _Turn


@pytest.mark.parametrize("width", [16, 20, 25, 40, 71, 72, 120])
def test_the_figures_can_be_read_at_any_width(width: int) -> None:
    """No figure is cut into letters where a line of its own would hold it."""
    turn = _Turn("planner", "Name three primes.")
    turn.lane, turn.usage = "gpu0", Usage(prompt_tokens=31, completion_tokens=17, queue_ms=3, first_token_ms=152)
    shown = io.StringIO()
    console = Console(file=shown, width=width)
    console.print(_summary([turn], console))
    words = shown.getvalue().split()
    assert {"planner", "gpu0", "152", "31", "17"} <= set(words)


@pytest.mark.parametrize("width", [60, 80, 94, 120])
def test_a_model_is_named_on_one_line(width: int) -> None:
    """If a table with the models is too wide, it leaves them out, since the line above the answers names the model."""
    turn = _Turn("planner", "Name three primes.", lane="builtin0", model="SmolLM2-135M-Instruct-Q4_K_M")
    turn.usage = Usage(prompt_tokens=31, completion_tokens=17, queue_ms=12, first_token_ms=152)
    shown = io.StringIO()
    console = Console(file=shown, width=width)
    console.print(_summary([turn], console))
    lines = shown.getvalue().splitlines()
    assert (turn.model in shown.getvalue()) == (width != 80)
    assert len(lines) == (8 if width == 60 else 2)


@pytest.mark.parametrize(("provider", "next_command"), [("builtin", "tokenlane probe"), ("ollama", "tokenlane invite")])
def test_the_next_steps_fit_the_model(provider: str, next_command: str) -> None:
    """After the toy the demo shows the way to a real model, after a real model the way to more hosts."""
    steps = _next_steps(provider)
    assert len(steps) == 2
    assert "`tokenlane up`" in steps[0]
    assert next_command in steps[1]
