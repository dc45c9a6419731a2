"""The ledger: six outcomes that add up, and figures that are what they say."""

from __future__ import annotations

from statistics import median

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import asdict

from loki_rl.core.messages import Outcome
from loki_rl.core.pipeline import Latency, Pipeline, Task, Variant
from loki_rl.core.plan import Plan
from loki_rl.core.requests.accuracy import Accuracy
from loki_rl.core.requests.histogram import ERROR, LEAST_S
from loki_rl.core.requests.ledger import PlanRecord, Root, Second, Tally, cost, mean_servers, summarise

FAST = {1: Latency(0.01, 0.02, 0.03)}


@settings(derandomize=True, deadline=None, max_examples=100)
@given(st.lists(st.tuples(st.integers(0, 4), st.sampled_from(Outcome), st.floats(0, 1), st.floats(0, 1)), max_size=40))
def test_six_outcomes_add_up(ends: list[tuple[int, Outcome, float, float]]) -> None:
    tally = Tally()
    for second, *_ in ends:
        tally.arrive(second)
    for second, outcome, latency, accuracy in ends:
        tally.validate()
        tally.close(second, outcome, latency, accuracy)
    tally.validate()
    found = summarise(tally, 1.0, 4)
    total = found.ok + found.late + found.dropped + found.rejected + found.cancelled + found.failed
    assert found.arrivals == total == len(ends)
    ok = [accuracy for _, outcome, _, accuracy in ends if outcome is Outcome.OK]
    assert found.slo_violation_ratio == pytest.approx(1 - len(ok) / len(ends) if ends else 0.0)
    assert found.accuracy == pytest.approx(sum(ok) / len(ok) if ok else 0.0)
    timed = [latency for _, outcome, latency, _ in ends if outcome in (Outcome.OK, Outcome.LATE)]
    assert found.p50_ms == pytest.approx(1000 * median(timed) if timed else 0.0, rel=ERROR, abs=1000 * LEAST_S)


def test_a_second_that_closes_more_than_arrived_is_found() -> None:
    tally = Tally()
    tally.arrive(0)
    tally.close(0, Outcome.OK, 0.1, 1.0)
    tally.close(0, Outcome.OK, 0.1, 1.0)
    with pytest.raises(AssertionError, match="second 0 closed more than arrived"):
        tally.validate()
    tally.second(0).arrivals = 5
    with pytest.raises(AssertionError, match="second 0 does not add up"):
        tally.validate()


@settings(derandomize=True, deadline=None, max_examples=100)
@given(st.lists(st.tuples(st.integers(0, 9), st.sampled_from(Outcome), st.integers(0, 3)), max_size=40), st.integers(0, 12))
def test_what_is_trimmed_still_counts(ends: list[tuple[int, Outcome, int]], oldest: int) -> None:
    whole, trimmed = Tally(), Tally()
    for tally in (whole, trimmed):
        tally.arrive(0)
        for second, outcome, servers in sorted(ends):
            tally.arrive(second)
            tally.close(second, outcome, 0.1, 0.5)
            tally.second(second).servers = servers
            tally.second(second).loads += 1
    trimmed.trim(oldest, 3)
    trimmed.validate()
    assert all(number >= oldest or second.open for number, second in trimmed.seconds.items() if number != 0)
    for tally in (whole, trimmed):
        tally.close(0, Outcome.LATE, 0.1, 0.0)
    trimmed.trim(oldest, 3)
    trimmed.validate()
    assert trimmed.earlier_s == sum(number < oldest for number in whole.seconds)
    assert asdict(summarise(trimmed, 1.0, 4)) == pytest.approx(asdict(summarise(whole, 1.0, 4)))


def test_only_the_latest_plans_are_kept() -> None:
    plan = Plan("hardware", (), 0, 1.0, 1.0, 1.0, 1.0, {}, {})
    tally = Tally(plans=[PlanRecord(float(number), plan) for number in range(9)])
    tally.trim(0, 2)
    assert [record.time for record in tally.plans] == [7.0, 8.0]


def test_cost_is_violations_accuracy_lost_and_servers() -> None:
    assert cost(100, 90, 90 * 0.8, 0.8, 0.5, 5.0) == pytest.approx(5 * 0.1 + 0.1 * 0.5)
    assert cost(100, 90, 90 * 0.4, 0.8, 0.5, 5.0) == pytest.approx(5 * 0.1 + 0.45 + 0.1 * 0.5)
    assert cost(0, 0, 0.0, 0.8, 1.0, 5.0) == pytest.approx(0.1)


def test_servers_are_averaged_up_to_the_last_arrival() -> None:
    tally = Tally(seconds={n: Second(servers=n, arrivals=int(n == 2)) for n in range(5)})
    assert mean_servers(tally) == 1.0
    assert mean_servers(Tally(seconds={0: Second(servers=9)})) == 0.0


def test_leaf_violations_and_switches_are_sums() -> None:
    tally = Tally(leaves=8, leaves_bad=2, executions=11, seconds={0: Second(loads=2), 1: Second(loads=3)})
    found = summarise(tally, 1.0, 4)
    assert (found.leaf_violation_ratio, found.task_executions, found.switches) == (0.25, 11, 5)


# -- accuracy of a request ------------------------------------------------------------------------------------------------

PIPELINE = Pipeline(
    name="fork",
    slo_s=0.2,
    tasks=(
        Task("find", (Variant("f0", 0.5, FAST, {"read": 1, "sort": 1}), Variant("f1", 0.8, FAST, {"read": 1, "sort": 1})),
             entry=1.0),
        Task("read", (Variant("r0", 0.5, FAST), Variant("r1", 0.9, FAST)), parent="find"),
        Task("sort", (Variant("s0", 0.6, FAST),), parent="find"),
    ),
    leaf_weights={"read": 0.75, "sort": 0.25},
    path_accuracy={("f0", "r1"): 0.48},
)  # fmt: skip
READ, SORT = 1, 2


def prefix(*variants: int) -> int:
    code = 0
    for variant in variants:
        code = PIPELINE.extend(code, variant)
    return code


def served(*leaves: tuple[int, int], dead: tuple[tuple[int, int], ...] = ()) -> float:
    """Accuracy of a request with these leaves (task, path) and these branches that ended without any."""
    accuracy, root = Accuracy(PIPELINE), Root(0, 0, 0.0, 1.0, 0, 3)
    for task, path in leaves:
        root.leaf_counts[task] += 1
        root.accuracy_sums[task] += accuracy.path(task, path)
    for child, path in dead:
        accuracy.dead_end(root, child, path)
    return accuracy.of(root)


def test_each_branch_is_the_mean_over_its_leaves_weighted_by_omega() -> None:
    found = served((READ, prefix(0, 1)), (READ, prefix(0, 0)), (SORT, prefix(0, 0)))
    assert found == pytest.approx(0.75 * (0.48 + 0.25) / 2 + 0.25 * 0.3)


def test_a_branch_without_leaves_counts_what_ran_finished_at_its_best() -> None:
    found = served((READ, prefix(1, 0)), dead=((SORT, prefix(1)),))
    assert found == pytest.approx(0.75 * 0.4 + 0.25 * 0.8 * 0.6)


def test_a_dead_end_beside_leaves_of_the_same_branch_does_not_count() -> None:
    """Two entry items, one of which made nothing to read."""
    found = served((READ, prefix(1, 0)), (SORT, prefix(1, 0)), dead=((READ, prefix(0)),))
    assert found == pytest.approx(0.75 * 0.4 + 0.25 * 0.48)


def test_a_branch_that_never_began_counts_the_best_there_is() -> None:
    assert served() == pytest.approx(PIPELINE.best_accuracy)
