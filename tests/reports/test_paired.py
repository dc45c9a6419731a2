"""How sure a comparison is: which runs are pairs, and what their intervals say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from loki_rl.reports.cost_chart import costs_png
from loki_rl.reports.page import write_page
from loki_rl.reports.paired import contrasts
from loki_rl.reports.plots import PlotError
from loki_rl.reports.report import summary_lines


def test_every_policy_is_set_against_the_cheapest_on_the_same_requests(make_result: Any) -> None:
    results = [make_result("loki", seed=seed, ok=4 + seed) for seed in range(3)]
    results += [make_result("exact", seed=seed, ok=7 + seed) for seed in range(3)]
    (found,) = contrasts(results)
    assert (found.driver, found.policies) == ("twin", ("loki", "exact"))
    assert [one.policy for one in found.estimates] == ["exact", "loki"]
    (apart,) = found.differences
    assert (apart.policy, apart.reference, apart.n) == ("loki", "exact", 3)
    # Seeds differ by themselves, pairs do not: nothing is left to chance.
    assert found.estimates[1].cost.low < found.estimates[1].cost.high
    violations = apart.violations
    assert [violations.low, violations.value, violations.high] == pytest.approx([0.3] * 3)


def test_only_windows_that_all_policies_played_count(make_result: Any) -> None:
    results = [make_result("loki", seed=seed) for seed in range(3)] + [make_result("exact", seed=1)]
    (found,) = contrasts(results)
    assert [one.n for one in found.estimates] == [1, 1]
    assert contrasts([make_result("loki", seed=0), make_result("exact", seed=1)])[0].estimates == ()


def test_drivers_are_not_mixed_and_what_counted_no_servers_is_left_out(make_result: Any) -> None:
    outside = make_result("loki", "onnx")
    outside = replace(outside, summary=replace(outside.summary, servers_mean=None, cost_j=None))
    found = contrasts([make_result("loki", "emulated"), make_result("loki", "twin"), outside])
    assert [one.driver for one in found] == ["twin", "emulated"]


def test_a_line_says_violations_accuracy_and_servers_together(make_result: Any) -> None:
    assert summary_lines([make_result("exact", ok=8)]) == [
        "exact: violations 20.00%, accuracy 90.00%, servers 3.0 of 4, J 1.155"
    ]
    several = summary_lines([make_result("exact", driver, seed=seed) for driver in ("twin", "emulated") for seed in (0, 1)])
    assert [line.partition(":")[0] for line in several] == ["exact (twin)", "exact (emulated)"]
    assert "J 1.155 [1.155, 1.155]" in several[0]


def test_the_picture_has_every_driver(make_result: Any, tmp_path: Path) -> None:
    costs_png(contrasts([make_result(driver=driver) for driver in ("twin", "emulated")]), tmp_path / "c.png", "Cost")
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(PlotError, match="no cost to draw"):
        costs_png([], tmp_path / "c.png", "Cost")


def test_a_page_needs_nothing_beside_it(tmp_path: Path) -> None:
    (tmp_path / "a b.png").write_bytes(b"\x89PNG of sorts")
    text = "# On *small* & <large>\n\n![A picture](<a b.png>)\n\n| a | b |\n| :-- | --: |\n| 1 | 2 |\n"
    write_page(text, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "<title>On small &amp; &lt;large&gt;</title>" in page
    assert '<td style="text-align: right;">2</td>' in page
    assert page.count('src="data:image/png;base64,iVBORyBvZiBzb3J0cw=="') == 1
    assert "a b.png" not in page
