"""Parts of the documentation that the tests generate: a page has them between two marks.

`TOKENLANE_RECORD=1` has a test write its part anew; else it compares.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NamedTuple


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
