"""The documentation as tests use it: parts that they generate, tables that they read, examples that they run.

`TOKENLANE_RECORD=1` has a test write the part it generates anew; else it compares.
"""

from __future__ import annotations

import os
import re
import textwrap
from pathlib import Path
from typing import Any, NamedTuple

from tests.repository import ROOT

PAGES_WITH_COMMANDS = (
    *(
        "README.md",
        "workers",
        "policy",
        "monitoring",
        "dashboard",
        "requests",
        "models",
        "swap",
        "embeddings",
        "configuration",
        "simulator",
    ),
)
"""The pages whose commands `tests/live/test_readme.py` runs, in this order."""
ELSEWHERE = {
    "deploy": "test_compose.py: the services of docker-compose.yml, as processes",
    "deploy-kubernetes": "none: they need Docker and a cluster; test_kubernetes.py validates the manifests",
    "deploy-systemd": "test_systemd.py: the units, as processes",
    "api-keys": "test_keys.py: they leave a pool with keys, which everybody then needs",
    "batches": "test_batches.py: it runs until it is stopped",
    "gateway": "test_launch.py and the tests of the gateway: they run until they are stopped, or need a coding agent",
    "security": "test_key.py: they need a pool whose key changes",
    "tracing": "test_tracing.py: they need a collector",
    "supply-chain": 'the step "supply chain" of .ci/run, and test_supply_chain.py',
    "runbook": "test_runbook.py: they need a pool with the role and the lane that they name",
    "redis": "test_users.py: they make the users of a server",
    "plugins": "test_plugins.py: those of a tool need that tool",
    "providers": "test_example_provider.py: they need a provider that is not installed",
    "metrics": "test_exporter.py: they run until they are stopped",
    "CONTRIBUTING.md": "verbs of make, which CI runs",
    "benches/README.md": "a measurement of minutes",
    "bench-llm": "test_bench_llm.py, on simulated servers",
}
"""The other pages with commands, and what runs those."""
SKIPPED = ("make ", "export ", "find ")
"""What commands begin with that need another folder or shell: `tests/unit/test_documented_code.py` checks those."""


class GeneratedPart(NamedTuple):
    """What stands on a page between `<!-- NAME: made by the tests -->` and `<!-- end -->`."""

    page: Path
    name: str

    def text(self) -> str:
        """The part as the page has it."""
        match = self._marked().search(self.page.read_text(encoding="utf-8"))
        assert match is not None, f"{self.page.name} has no part {self.name}"
        return match[2]

    def is_up_to_date(self, generated: str) -> bool:
        """Compare the page with what was generated, after writing it there if the tests record."""
        if os.environ.get("TOKENLANE_RECORD"):
            page = self.page.read_text(encoding="utf-8")
            written = self._marked().sub(lambda match: match[1] + generated + match[3], page)
            self.page.write_text(written, encoding="utf-8")
        return self.text() == generated

    def _marked(self) -> re.Pattern[str]:
        mark = re.escape(f"<!-- {self.name}: made by the tests -->\n")
        return re.compile(f"({mark})(.*?)(<!-- end -->)", re.DOTALL)


def table_on(page: Path, name: str) -> list[list[str]]:
    """The cells, without the head, of the table between `<!-- NAME: read by the tests -->` and `<!-- end -->`."""
    marked = re.compile(f"<!-- {name}: read by the tests -->\n(.*?)<!-- end -->", re.DOTALL)
    match = marked.search(page.read_text(encoding="utf-8"))
    assert match is not None, f"{page.name} has no table {name}"
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in match[1].splitlines()[2:]]


def fenced(language: str, text: str) -> list[str]:
    """A page's code blocks in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def commands_of(text: str) -> list[str]:
    """The commands in a page's console blocks, in order."""
    lines = [line for block in fenced("console", text) for line in block.splitlines()]
    return [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]


def examples_of(page: str) -> dict[str, list[str]]:
    """The Python code on a page below docs, by the heading above it."""
    found: dict[str, list[str]] = {}
    heading, code, fenced, keeps = "", list[str](), False, False
    for line in (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8").splitlines(keepends=True):
        if line.startswith("```"):
            if fenced and code:
                found.setdefault(heading, []).append("".join(code))
            fenced, code = not fenced, []
            keeps = line == "```python\n"
        elif fenced and keeps:
            code.append(line)
        elif not fenced and line.startswith("#"):
            heading = line.strip("# \n")
    return found


async def run_example(code: str, **names: Any) -> dict[str, Any]:
    """Run code that awaits, and return its names."""
    body = textwrap.indent(code, "    ")
    exec(f"async def example():\n{body}\n    return locals()", names)
    found: dict[str, Any] = await names["example"]()
    return found
