"""The comparison for people: means over seeds, the table in the terminal, the report in the log folder."""

from __future__ import annotations

import csv
import sys
from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from rich.console import Console

from loki_rl.reports.report import result_row, table, write_report
from loki_rl.reports.summary import averages, columns, orders
from loki_rl.runs.result import RunResult


def printed(results: Sequence[RunResult], width: int = 80) -> str:
    console = Console(width=width, file=StringIO())
    console.print(table(results))
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def lines_of(text: str, word: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines() if word in line.split()]


# -- means ----------------------------------------------------------------------------------------------------------------


def test_seeds_are_averaged_and_drivers_stand_side_by_side(make_result: Any) -> None:
    results = [
        make_result("hardware", "emulated", ok=2),
        make_result("exact", ok=8, seed=0),
        make_result("hardware", ok=2),
        make_result("exact", ok=6, seed=1),
    ]
    rows = averages(results)
    assert [(row.policy, row.driver, row.n) for row in rows] == [
        ("hardware", "twin", 1), ("hardware", "emulated", 1), ("exact", "twin", 2),
    ]  # fmt: skip
    exact = rows[-1]
    assert (exact.arrivals, exact.ok, exact.late, exact.dropped) == (20.0, 14.0, 2.0, 4.0)
    assert exact.slo_violation_ratio == pytest.approx(0.3)
    assert (exact.servers_mean, exact.switches, exact.provenance) == (3.0, 2.0, "assumed")


def test_the_cost_for_other_weights_differs_by_the_violations_alone(make_result: Any) -> None:
    (row,) = averages([make_result(ok=6)])
    assert row.cost_j == pytest.approx(5 * 0.4 + 0.6 * (1 - 0.9) + 0.1 * 3 / 4)
    assert row.cost_j is not None
    assert row.cost_j_2 == pytest.approx(row.cost_j - 3 * 0.4)
    assert row.cost_j_10 == pytest.approx(row.cost_j + 5 * 0.4)


def seen_from_outside(done: RunResult) -> RunResult:
    """By a client of a server that has no ledger."""
    unknown = ("servers_mean", "cost_j", "switches", "task_executions", "leaf_violation_ratio")
    return replace(done, summary=replace(done.summary, **dict.fromkeys(unknown)))


def test_what_no_run_counted_stays_unknown(make_result: Any) -> None:
    done = seen_from_outside(make_result())
    (row,) = averages([done])
    assert (row.servers_mean, row.cost_j, row.cost_j_2, row.task_executions) == (None, None, None, None)
    assert orders([row]) == []
    assert lines_of(printed([done]), "exact†")[0][-1] == "-"


def test_policies_are_ordered_for_every_weight(make_result: Any) -> None:
    """A policy that keeps its accuracy and misses a little wins only while a violation is cheap."""
    proud, safe = make_result("proud", ok=9, accuracy=1.0), make_result("safe", ok=10, accuracy=0.6)
    ((trace, driver, order),) = orders(averages([proud, safe]))
    assert (trace, driver) == ("crowd", "twin")
    assert {weight: [(policy, round(value, 3)) for policy, value in costs] for weight, costs in order.items()} == {
        2.0: [("proud", 0.275), ("safe", 0.475)],
        5.0: [("safe", 0.475), ("proud", 0.575)],
        10.0: [("safe", 0.475), ("proud", 1.075)],
    }
    assert "twin, by J with violations x 10: safe < proud" in printed([proud, safe])


def test_an_order_that_no_weight_changes_is_one_line(make_result: Any) -> None:
    text = printed([make_result("hardware", ok=3), make_result("exact", ok=9)])
    assert [line.strip() for line in text.splitlines() if "by J" in line] == [
        "twin, by J: exact < hardware (violations x 2, 5, 10)"
    ]


# -- the table ------------------------------------------------------------------------------------------------------------


def test_the_table_fits_a_terminal_and_cuts_nothing(make_result: Any) -> None:
    results = [make_result(policy, driver) for policy in ("hardware", "exact") for driver in ("twin", "emulated")]
    text = printed([replace(done, provenance="published") for done in results])
    assert all(len(line) <= 80 for line in text.splitlines())
    assert "…" not in text
    ((policy, driver, n, arrivals, violations, accuracy, servers, *_),) = [
        cells for cells in lines_of(text, "exact") if "emulated" in cells
    ]
    assert (policy, driver, n, arrivals) == ("exact", "emulated", "1", "20")
    assert (violations, accuracy, servers) == ("20.00", "90.00", "3.0")


def test_a_long_name_is_broken_rather_than_a_figure(make_result: Any) -> None:
    text = printed([make_result("a-policy-with-a-long-name-of-its-own", "emulated", ok=1)])
    assert "…" not in text
    (figures,) = [line.split()[-3:] for line in text.splitlines() if "emulated" in line]
    assert figures == ["110", "2", "4.585"]


def test_assumed_figures_are_marked(make_result: Any) -> None:
    text = printed([make_result()])
    assert lines_of(text, "exact†")
    assert "assumed: made with figures that nobody measured" in text
    assert "†" not in printed([replace(make_result(), provenance="measured")])


def test_several_traces_have_a_section_each(make_result: Any) -> None:
    text = printed([make_result(trace="calm"), make_result(trace="storm")])
    assert [line.strip() for line in text.splitlines() if line.strip() in {"calm", "storm"}] == ["calm", "storm"]


def test_rare_outcomes_have_a_column_where_there_are_any(make_result: Any) -> None:
    done = make_result()
    failed = replace(done, summary=replace(done.summary, dropped=0, failed=2))
    titles = [[column.title for column in columns(averages([one]))] for one in (done, failed)]
    assert "other %" not in titles[0]
    assert "other %" in titles[1]


def test_a_policy_that_served_nobody_has_no_accuracy(make_result: Any) -> None:
    assert lines_of(printed([make_result(ok=-1)]), "exact†")[0][5] == "-"


# -- the report -----------------------------------------------------------------------------------------------------------


def test_the_report_holds_table_plot_order_and_options(make_result: Any, tmp_path: Path) -> None:
    results = [make_result("hardware", ok=3), make_result("exact", ok=9)]
    path = write_report(results, tmp_path, ["static on crowd (twin, seed 0): it broke"])
    text = path.read_text()
    assert "| crowd | exact | twin | 1 | 20 | 10.00† | 90.00† | 3.0† |" in text
    assert "- crowd, twin, violations x 10: exact 1.165 < hardware 7.105" in text
    assert "- static on crowd (twin, seed 0): it broke" in text
    assert "(<timeline-crowd.png>)" in text
    assert (tmp_path / "timeline-crowd.png").read_bytes().startswith(b"\x89PNG")
    assert "- interval_s: 1.0" in text
    assert "- policy:" not in text


def test_results_csv_has_a_line_for_every_run(make_result: Any, tmp_path: Path) -> None:
    results = [make_result(seed=seed) for seed in (0, 1)]
    write_report(results, tmp_path)
    with (tmp_path / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["seed"] for row in rows] == ["0", "1"]
    assert rows[0].keys() == result_row(results[0]).keys()
    assert float(rows[0]["slo_violation_ratio"]) == results[0].summary.slo_violation_ratio


def test_without_matplotlib_the_report_says_so(make_result: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    text = write_report([make_result()], tmp_path).read_text()
    assert "No plots: plots need matplotlib" in text
    assert not list(tmp_path.glob("*.png"))


def test_a_comparison_in_which_all_failed_still_has_a_report(tmp_path: Path) -> None:
    text = write_report([], tmp_path / "new", ["it broke"]).read_text()
    assert "- it broke" in text
