"""What a fault cost, from what clients and plane showed."""

from __future__ import annotations

from math import inf

import pytest

from loki_rl.core.messages import Outcome
from loki_rl.serving.chaos.recovery import Cost, Struck, costs, row
from loki_rl.serving.chaos.schedule import Fault, Kind
from loki_rl.serving.chaos.watch import Sign
from loki_rl.serving.load.open_loop import Record
from loki_rl.serving.load.sender import Seen

SLO_S, RPS = 0.2, 20
WORKERS = ("workers-0", "workers-1")


def records(bad: tuple[tuple[float, float], ...], until: float = 30.0) -> list[Record]:
    """RPS requests a second, dropped if they are due in one of these times."""
    made = []
    for number in range(int(RPS * until)):
        due = number / RPS
        record = Record(due, due)
        outcome = Outcome.DROPPED if any(begin <= due < end for begin, end in bad) else Outcome.OK
        record.end(due + 0.05, Seen(number, outcome, 1.0))
        made.append(record)
    return made


def struck(at: float, kind: Kind = "kill", target: str = "workers-0") -> Struck:
    return Struck(Fault(0, at, kind, target), at)


def test_the_share_is_back_when_a_second_is_as_good_as_before() -> None:
    usual, (cost,) = costs(records(((10.0, 12.5),)), [struck(10.0)], [], SLO_S, WORKERS)
    assert usual == 1.0
    assert cost.affected == 50
    assert cost.back_s == pytest.approx(2.5, abs=0.15)


def test_a_fault_that_costs_nothing_is_back_at_once() -> None:
    _, (cost,) = costs(records(()), [struck(10.0)], [], SLO_S, WORKERS)
    assert (cost.back_s, cost.affected) == (0.0, 0)


def test_one_that_never_comes_back_is_told_so() -> None:
    _, (cost,) = costs(records(((10.0, 99.0),)), [struck(10.0)], [], SLO_S, WORKERS)
    assert cost.back_s == inf
    assert row("kill", [cost]).not_back == 1


def test_each_fault_answers_for_the_requests_up_to_the_next() -> None:
    _, found = costs(records(((10.5, 11.0), (14.0, 14.5))), [struck(10.0), struck(13.0)], [], SLO_S, WORKERS)
    assert [cost.affected for cost in found] == [10, 10]


SIGNS = [
    Sign(9.0, "gone", "workers-0"),
    Sign(10.3, "gone", "workers-1"),
    Sign(10.5, "drift"),
    Sign(11.0, "gone", "workers-0"),
]


@pytest.mark.parametrize(
    ("kind", "target", "noticed_s"),
    [
        ("kill", "workers-0", 1.0),
        ("hang", "", 0.3),
        ("slow", "workers-0", 0.5),
        ("withhold", "workers-1 gateway", 0.3),
        ("missing", "workers-0", inf),
    ],
)
def test_a_fault_is_noticed_by_the_first_sign_of_its_kind_and_of_whom_it_struck(
    kind: Kind, target: str, noticed_s: float
) -> None:
    _, (cost,) = costs(records(()), [struck(10.0, kind, target)], SIGNS, SLO_S, WORKERS)
    assert cost.noticed_s == pytest.approx(noticed_s)


def test_a_row_has_median_and_worst_of_what_showed() -> None:
    found = row("stop", [Cost("stop", 1.0, 0.0, 0), Cost("stop", inf, 2.0, 3), Cost("stop", 3.0, 5.0, 1)])
    assert (found.count, found.noticed, found.noticed_s) == (3, 2, (3.0, 3.0))
    assert (found.cost, found.back_s, found.affected) == (2, (5.0, 5.0), 4)
