"""Which of two beliefs is leant on, by what came."""

from __future__ import annotations

import numpy as np
import pytest

from loki_rl.control.demand.estimators import Floats
from loki_rl.control.demand.leaning import SHARED, TRUST, Leaning, Said, losses

LEVELS = np.geomspace(1.0, 1000.0, 60)
LEAD_S, MEAN_RPS = 10.0, 100.0


def sure(rps: float) -> Floats:
    """Demand is this, and never more."""
    return (rps > LEVELS).astype(np.float64)


def played(leaning: Leaning, counts: Floats, first: Floats, second: Floats, start: int = 0, often: int = 1) -> list[float]:
    """Trust after every second; asked so many times in each."""
    found = []
    for now in range(start + 1, len(counts) + 1):
        for _ in range(often):
            leaning.settle(now, counts[:now])
            leaning.note(now, LEAD_S, LEVELS, MEAN_RPS, np.stack((first, second)))
        found.append(leaning.trust)
    return found


def test_nothing_is_known_until_the_lead_is_over() -> None:
    seen = played(Leaning(), np.full(10, 100.0), sure(100.0), sure(400.0))
    assert set(seen) == {TRUST}


@pytest.mark.parametrize(("right", "wrong"), [(105.0, 400.0), (105.0, 40.0)])
def test_it_leans_on_the_one_that_foretells_and_changes_its_mind_within_a_minute(right: float, wrong: float) -> None:
    counts = np.full(200, 100.0)
    leaning = Leaning()
    second_is_right = played(leaning, counts[:100], sure(wrong), sure(right))
    assert second_is_right[30] > 0.95
    assert max(second_is_right) <= 1 - SHARED * (1 - TRUST)
    first_is_right = played(leaning, counts, sure(right), sure(wrong), start=100)
    assert first_is_right[60] < 0.05
    assert first_is_right[-1] >= SHARED * TRUST


def test_two_that_are_alike_are_trusted_alike() -> None:
    assert played(Leaning(), np.full(60, 100.0), sure(90.0), sure(90.0))[-1] == pytest.approx(TRUST)


def test_how_often_it_is_asked_within_a_second_makes_no_difference() -> None:
    """A controller asks at once when servers are lost, in the twin and on a plane."""
    counts = np.random.default_rng(0).poisson(100, 80).astype(np.float64)
    once, often = (played(Leaning(), counts, sure(110.0), sure(150.0), often=times) for times in (1, 3))
    assert once == often


def test_seconds_go_on_where_the_history_is_limited() -> None:
    whole, short = Leaning(), Leaning()
    counts = np.random.default_rng(0).poisson(100, 90).astype(np.float64)
    for now in range(1, len(counts) + 1):
        for leaning, known in ((whole, counts[:now]), (short, counts[max(0, now - 30) : now])):
            leaning.settle(now, known)
            leaning.note(now, LEAD_S, LEVELS, MEAN_RPS, np.stack((sure(110.0), sure(150.0))))
    assert short.trust == pytest.approx(whole.trust)


def test_what_was_due_before_all_that_is_known_is_let_go() -> None:
    leaning = Leaning()
    leaning.note(0, LEAD_S, LEVELS, MEAN_RPS, np.stack((sure(110.0), sure(150.0))))
    leaning.settle(500, np.full(20, 100.0))
    assert leaning.trust == TRUST


def test_a_loss_is_least_for_the_true_chances() -> None:
    demand = np.array([50.0] * 8 + [300.0] * 2)
    true = np.where(LEVELS < 50, 1.0, np.where(LEVELS < 300, 0.2, 0.0))
    for other in (0.02, 0.1, 0.4, 1.0):
        false = np.where((LEVELS >= 50) & (LEVELS < 300), other, true)
        least, more = losses(Said(0, 10, LEVELS, MEAN_RPS, np.stack((true, false))), demand)
        assert least < more
