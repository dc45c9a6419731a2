"""What happens is told by how requests were served, in stretches that together are the whole run."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import pytest

from loki_rl.core.messages import Outcome
from loki_rl.core.requests.ledger import Tally, summarise
from loki_rl.reports.phases import happenings, phase_of, phases
from loki_rl.runs.options import RunOptions
from loki_rl.runs.result import RunResult
from loki_rl.runs.tensorboard.curves import whole_seconds

BEST, SERVERS = 0.9, 4


class Served(NamedTuple):
    """So many seconds like this, with 100 requests each."""

    seconds: int
    servers: int
    ok: int = 100
    accuracy: float = BEST


def run_of(*stretches: Served) -> RunResult:
    tally, number = Tally(), 0
    for one in stretches:
        for _ in range(one.seconds):
            tally.second(number).servers = one.servers
            for request in range(100):
                tally.arrive(number)
                tally.close(number, Outcome.OK if request < one.ok else Outcome.DROPPED, 0.1, one.accuracy)
            number += 1
    return RunResult(
        options=RunOptions("traffic"), trace="crowd", summary=summarise(tally, BEST, SERVERS), tally=tally, servers=SERVERS,
        best_accuracy=BEST, provenance="assumed", duration_s=float(number), wall_s=0.1,
    )  # fmt: skip


CROWD = run_of(Served(6, 2), Served(6, 4), Served(6, 4, accuracy=0.7), Served(6, 4, ok=60, accuracy=0.5), Served(5, 3))


def test_servers_then_accuracy_then_loss() -> None:
    found = phases(CROWD)
    assert [phase.happening for phase in found] == [
        "fewer servers", "all servers", "cheaper models", "requests lost", "fewer servers",
    ]  # fmt: skip
    assert found[0].servers == (2, 2)
    assert found[0].lost == 0.0


def test_stretches_cover_the_run_without_gap_or_overlap() -> None:
    found = phases(CROWD)
    assert found[0].begin_s == 0
    assert found[-1].end_s == 29
    assert all(a.end_s == b.begin_s for a, b in pairwise(found))
    assert sum(phase.demand_rps * (phase.end_s - phase.begin_s) for phase in found) == pytest.approx(2900)


def test_the_figures_of_a_stretch_are_those_of_its_seconds() -> None:
    phase = phase_of(whole_seconds(CROWD.tally, CROWD.duration_s), 17, 19, "requests lost")
    assert phase.demand_rps == 100.0
    assert phase.lost == pytest.approx(0.2)
    assert phase.accuracy == pytest.approx((100 * 0.7 + 60 * 0.5) / 160)
    assert phase.servers == (4, 4)


@pytest.mark.parametrize("blip", [Served(1, 3), Served(2, 3)])
def test_what_passes_at_once_is_no_phase(blip: Served) -> None:
    (phase,) = phases(run_of(Served(8, 4), blip, Served(8, 4)))
    assert (phase.happening, phase.begin_s, phase.end_s) == ("all servers", 0, 16 + blip.seconds)
    assert phase.servers == (3, 4)


def test_a_short_beginning_belongs_to_what_follows() -> None:
    assert [phase.happening for phase in phases(run_of(Served(1, 4), Served(8, 2)))] == ["fewer servers"]


def test_few_losses_are_chance() -> None:
    assert set(happenings(run_of(Served(9, 4, ok=96)))) == {"all servers"}
    assert set(happenings(run_of(Served(9, 4, ok=94)))) == {"requests lost"}


def test_a_single_loss_is_chance_where_there_are_few_requests(make_result: Callable[..., RunResult]) -> None:
    # Ten requests in every other second: a second and its neighbours have ten or twenty.
    assert set(happenings(make_result(ok=10, seconds=9, accuracy=1.0))) == {"fewer servers"}
    assert happenings(make_result(ok=9, seconds=3, accuracy=1.0))[0] == "fewer servers"
    assert happenings(make_result(ok=8, seconds=3, accuracy=1.0))[0] == "requests lost"


def test_a_run_in_which_nothing_was_served_has_no_accuracy() -> None:
    (phase,) = phases(run_of(Served(5, 4, ok=0)))
    assert (phase.happening, phase.accuracy, phase.lost) == ("requests lost", None, 1.0)
