"""Verdicts of a difference: what the whole interval says, and what a short run says."""

from __future__ import annotations

import pytest

from loki_rl.fidelity.verdict import Answer, near, together, verdict
from loki_rl.reports.statistics import Interval

NAN = float("nan")


@pytest.mark.parametrize(
    ("difference", "strict", "short"),
    [
        (Interval(0.1, -0.5, 0.6), "within", "within"),
        (Interval(0.8, 0.4, 1.2), "inconclusive", "within"),
        (Interval(-0.8, -1.2, -0.4), "inconclusive", "within"),
        (Interval(1.5, 1.2, 1.8), "outside", "outside"),
        (Interval(1.1, 0.5, 1.7), "inconclusive", "inconclusive"),
        (Interval(0.0, -1.5, 1.5), "inconclusive", "inconclusive"),
        (Interval(9.0, 7.0, 11.0), "outside", "outside"),
        (Interval(0.0, NAN, NAN), "inconclusive", "inconclusive"),
    ],
)
def test_a_difference_against_a_bar_of_one(difference: Interval, strict: Answer, short: Answer) -> None:
    assert verdict(difference, 1.0) == strict
    assert near(difference, 1.0) == short


def test_all_figures_together() -> None:
    assert together(["within", "within"]) == "within"
    assert together(["within", "inconclusive"]) == "inconclusive"
    assert together(["within", "inconclusive", "outside"]) == "outside"
