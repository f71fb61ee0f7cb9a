from __future__ import annotations

import pytest

from tokenlane.config.exit_codes import ConfigError
from tokenlane.config.settings.llm_option import parse_assignment, repeat_option


@pytest.mark.parametrize(
    ("given", "seen"),
    [
        ("worker --llm provider=vllm model=phi3:8b", "worker --llm provider=vllm --llm model=phi3:8b"),
        ("worker --llm a=1 --lane x=y", "worker --llm a=1 --lane x=y"),
        ("worker --llm a=1 why b=2", "worker --llm a=1 why b=2"),
        ("worker --llm=a=1 b=2", "worker --llm=a=1 --llm b=2"),
        ("worker --llm a=1 --llm b=2 c=3", "worker --llm a=1 --llm b=2 --llm c=3"),
        ("worker --llm a=1 models.x/y:z.digest=2", "worker --llm a=1 --llm models.x/y:z.digest=2"),
        ("chat --llm a=1 http://h/?b=2", "chat --llm a=1 http://h/?b=2"),
        ("worker --llm a=1 -- b=2", "worker --llm a=1 -- b=2"),
        ("worker -- --llm a=1", "worker -- --llm a=1"),
        ("worker --llm", "worker --llm"),
        ("worker --llm --json", "worker --llm --json"),
        ("worker a=1", "worker a=1"),
        ("worker --llm endpoint=http://h/?a=b 2+2=4", "worker --llm endpoint=http://h/?a=b 2+2=4"),
    ],
)
def test_every_assignment_that_follows_belongs_to_llm(given: str, seen: str) -> None:
    """`--llm` takes each `key=value` after it until something else comes, and nothing that stands elsewhere."""
    assert " ".join(repeat_option(given.split(" "))) == seen


@pytest.mark.parametrize(
    ("text", "path", "value"),
    [
        ("model=phi3:8b", ("model",), "phi3:8b"),
        ("endpoint=http://h/?a=b", ("endpoint",), "http://h/?a=b"),
        ("model=", ("model",), ""),
        ("vllm.timeout_ms=80000", ("vllm", "timeout_ms"), "80000"),
        ("lanes.gpu0.capacity=4", ("lanes", "gpu0", "capacity"), "4"),
        ("lanes.gpu.0.capacity=4", ("lanes", "gpu.0", "capacity"), "4"),
        ("models.phi3:8b.digest=sha256:0", ("models", "phi3:8b", "digest"), "sha256:0"),
        ("models.hf.co/a/b-1.5:Q4.digest=a=b", ("models", "hf.co/a/b-1.5:Q4", "digest"), "a=b"),
        ('models."phi3:8b".digest=0', ("models", "phi3:8b", "digest"), "0"),
        ("models.'phi3:8b'.digest=0", ("models", "phi3:8b", "digest"), "0"),
        ("roles.coder.limits.depth=4", ("roles", "coder", "limits", "depth"), "4"),
        ("roles.limits.weight=4", ("roles", "limits", "weight"), "4"),
    ],
)
def test_a_dotted_key_names_section_and_key(text: str, path: tuple[str, ...], value: str) -> None:
    """A value may hold `=`; between section and key there may be a name, dots included."""
    assert parse_assignment(text) == (path, value)


@pytest.mark.parametrize(
    "text", ["sk-hunter2", "=hunter2", "--json", "2=hunter2", "", "a:b=hunter2", "models.a b=hunter2"]
)
def test_what_is_no_assignment_is_refused_and_not_quoted(text: str) -> None:
    """What is not `key=value` is refused with an example, and not shown: it may be a key that lost its name."""
    with pytest.raises(ConfigError, match="--llm provider=vllm") as refused:
        parse_assignment(text)
    assert "hunter2" not in str(refused.value)
