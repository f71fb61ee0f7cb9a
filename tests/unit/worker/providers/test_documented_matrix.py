"""The documentation's table of providers says what the conformance suite found."""

from __future__ import annotations

from tests.matrix import COLUMNS, TABLE, findings, table

from tokenlane.worker.providers import default_registry
from tokenlane.worker.providers.conformance import CHECKS


def test_the_page_says_what_was_found() -> None:
    """After a change, `TOKENLANE_RECORD=1` writes both anew."""
    assert TABLE.is_up_to_date(table(findings()))


def test_all_providers_are_checked() -> None:
    """Each that comes with tokenlane has its row, by what it was checked against, and every check its column."""
    assert sorted(findings()) == [name for name in default_registry().names() if name in findings()]
    assert {"builtin", "llamacpp", "lmstudio", "ollama", "openai", "tgi", "vllm"} <= set(findings())
    assert {check for checks in COLUMNS.values() for check in checks} == set(CHECKS) - {"models"}
    for against in findings().values():
        for outcomes in against.values():
            assert set(outcomes) == set(CHECKS)
            assert "failed" not in outcomes.values()


def test_tgi_has_no_embeddings() -> None:
    """The table says so."""
    (row,) = [line for line in TABLE.text().splitlines() if line.startswith("| `tgi`")]
    assert row.split("|")[1 + 1 + list(COLUMNS).index("embeddings")].strip() == "no"
