"""The report of `bench llm`: its percentiles, its table and its plot."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from tokenlane.benches.measure.llm.report import LlmReport, Measured, Run, Spread
from tokenlane.benches.measure.llm.table import table
from tokenlane.benches.measure.plots.llm import svg


def run(first_ms: float, total_ms: float, *, tokens: int = 256, is_counted: bool = True) -> Run:
    return Run(
        first_token_ms=first_ms,
        total_ms=total_ms,
        tokens=tokens,
        is_counted=is_counted,
        prompt_tokens=20,
        cached_tokens=0,
    )


RUNS = [run(50, 2600), run(60, 2610), run(70, 5170)]
WHOLE = Measured(
    provider="vllm",
    endpoint="http://gpu:8000",
    model="a",
    version="0.32.0",
    runs=RUNS,
    memory_mb=3700.4,
    is_forced=True,
)
REFUSED = Measured(provider="", endpoint="http://gpu:1", problem="nothing | listens\x1b[31m")


def report(*measured: Measured, runs: int = 3, **fields: object) -> LlmReport:
    known: dict[str, object] = {
        "measured_at": "2026-01-02T03:04+00:00",
        "machine": "2 cores",
        "versions": "Python 3",
        "gpus": [],
        "cores": 2,
        "load_average": 0.05,
        "warm_up": 1,
        "seed": 7,
        "limit_s": 300,
        "tokens": 256,
    }
    return LlmReport.model_validate({**known, "runs": runs, "measured": measured, **fields})


def cells(text: str, row: int = 0) -> dict[str, str]:
    """The cells of a row, by their headings."""
    rows = [line.removeprefix("| ").removesuffix(" |").split(" | ") for line in text.splitlines() if line[:2] == "| "]
    return dict(zip(rows[0], rows[1 + row], strict=True))


@pytest.mark.parametrize(
    ("count", "p50", "p99"), [(1, 1, 1), (4, 2.5, 4), (99, 50, 99), (100, 50.5, 99), (200, 100.5, 198)]
)
def test_p99_is_the_maximum_of_fewer_than_100_runs(count: int, p50: float, p99: float) -> None:
    """The percentiles of the numbers from 1 on."""
    spread = Spread.of(range(count, 0, -1))
    assert spread == Spread(p50=p50, p99=p99, least=1, most=count)


def test_a_row_has_all_figures() -> None:
    """Percentiles and ranges, in the units of the headings."""
    row = cells(table(report(WHOLE)))
    assert row == {
        "provider": "vllm 0.32.0",
        "model": "a",
        "prompt": "20",
        "tokens": "256",
        "first token, ms": "60 / 70 (50 to 70)",
        "256 tokens, s": "2.61 / 5.17 (2.60 to 5.17)",
        "tokens a second": "100.0 (50.0 to 100.0)",
        "memory, MB": "3700",
        "remarks": "",
    }


def test_the_limit_of_an_answer_is_stated() -> None:
    """In the head, since what took longer is in no figure."""
    assert "at most 45 s for an answer" in table(report(WHOLE, limit_s=45))


def test_a_server_that_failed_has_a_row_with_the_reason() -> None:
    """A reason can neither end its cell nor steer a terminal. A model that failed later keeps its runs."""
    row = cells(table(report(WHOLE, REFUSED)), row=1)
    assert row["provider"] == row["first token, ms"] == row["memory, MB"] == "-"
    assert "http://gpu:1" in row["remarks"]
    assert "nothing \\| listens?[31m" in row["remarks"]
    late = cells(table(report(WHOLE.model_copy(update={"problem": "it broke off"}))))
    assert "after 3 runs: it broke off" in late["remarks"]
    assert late["first token, ms"].startswith("60")


def test_noise_is_reported() -> None:
    """Other programs, answers of another length, uncounted tokens, and a p99 that is only a maximum."""
    runs = [run(50, 1000, tokens=90, is_counted=False)] * 100
    noisy = WHOLE.model_copy(update={"runs": runs, "others_cores": 0.7})
    text = table(report(noisy, runs=100, load_average=1.5))
    row = cells(text)
    assert row["tokens"] == "90"
    assert [word in row["remarks"] for word in ("0.7 cores", "not all answers have 256", "pieces")] == [True] * 3
    assert "1.50 on 2 cores; the machine was BUSY" in text
    assert "p99 of fewer" not in text
    quiet = table(report(WHOLE))
    assert "BUSY" not in quiet
    assert "p99 of fewer" in quiet


def test_gpus_have_a_column() -> None:
    """Only on a host with GPUs, which the head names."""
    on_gpu = WHOLE.model_copy(update={"gpu_memory_mb": 9000.0})
    text = table(report(on_gpu, REFUSED, gpus=["NVIDIA H200"]))
    assert "NVIDIA H200" in text.splitlines()[0]
    assert [cells(text, row)["GPU memory, MB"] for row in (0, 1)] == ["9000", "-"]


def test_the_plot_has_a_bar_for_each_figure_of_each_model() -> None:
    """Models without runs have none, and neither have figures that are not known, as the time of a shorter answer."""
    named = WHOLE.model_copy(update={"model": "<b>", "memory_mb": None})
    plot = ElementTree.fromstring(svg(report(WHOLE, named, REFUSED)))
    assert len(plot.findall(".//{*}rect[@class='bar']")) == 3 * 2 + 1
    assert len(plot.findall(".//{*}path[@class='range']")) == 3 * 2
    assert "vllm: <b>" in {text.text for text in plot.findall(".//{*}text")}
    short = ElementTree.fromstring(svg(report(WHOLE.model_copy(update={"runs": [run(50, 1000, tokens=90)] * 3}))))
    assert len(short.findall(".//{*}rect[@class='bar']")) == 3
    ElementTree.fromstring(svg(report(REFUSED)))


def test_the_document_has_figures_and_runs() -> None:
    """What `--json` prints: percentiles besides each run; null for what is not known."""
    document = report(WHOLE, REFUSED).model_dump(mode="json")
    whole, refused = document["measured"]
    assert whole["total_ms"] == {"p50": 2610, "p99": 5170, "least": 2600, "most": 5170}
    assert [each["tokens"] for each in whole["runs"]] == [256] * 3
    assert (refused["total_ms"], refused["memory_mb"], refused["runs"]) == (None, None, [])
