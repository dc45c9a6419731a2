"""The evaluation's protocol and its statistics."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from msgspec.structs import replace

pytest.importorskip("sb3_contrib", reason="training is not installed; run 'make learn'")

from loki_rl.agents.evaluate.evaluation import Asked, Report, bound, evaluate
from loki_rl.agents.evaluate.families import KINDS
from loki_rl.agents.evaluate.guarded_agent import GuardedAgent
from loki_rl.agents.evaluate.report import as_json, table, write
from loki_rl.agents.evaluate.rollouts import base, greedy, play
from loki_rl.control.learned.observation import ACTIONS, NO_ADJUSTMENT
from loki_rl.env.gym.cluster_options import ClusterEnvOptions, pool_for
from loki_rl.reports.statistics import bootstrap, gap_closed, mean_gain, mean_interval

PLAYED = ClusterEnvOptions(pipeline="one-task", intervals=45, windows=6)


def test_an_interval_holds_its_value_and_narrows_with_windows() -> None:
    rng = np.random.default_rng(0)
    wide = bootstrap(rng.normal(1.0, 1.0, (2, 10, 1)), lambda x: float(x.mean()))
    narrow = bootstrap(rng.normal(1.0, 1.0, (2, 400, 1)), lambda x: float(x.mean()))
    assert wide.low <= wide.value <= wide.high
    assert narrow.high - narrow.low < wide.high - wide.low


def test_the_interval_of_a_mean_is_that_of_resampled_values() -> None:
    assert mean_interval(np.array([2.0])) == mean_interval(np.array([2.0, 2.0]))
    values = np.random.default_rng(1).normal(1.0, 1.0, 50)
    found, drawn = mean_interval(values), bootstrap(values[None, :], lambda x: float(x.mean()))
    assert found.value == drawn.value
    assert (found.low, found.high) == pytest.approx((drawn.low, drawn.high), abs=0.05)


def test_the_gap_is_a_share_of_sums() -> None:
    basis, ideal = np.array([1.0, 1.0, 2.0]), np.array([0.0, 1.0, 1.0])
    half = np.array([[0.5, 1.0, 1.5]])
    assert gap_closed(basis, half, ideal).value == pytest.approx(0.5)
    assert gap_closed(basis, basis[None, :], ideal).value == 0.0


def test_a_pair_that_is_the_same_gains_nothing() -> None:
    costs = np.linspace(0.1, 0.2, 20)
    gain = mean_gain(costs, costs[None, :])
    assert (gain.value, gain.low, gain.high) == (0.0, 0.0, 0.0)


def test_a_rare_bad_window_counts_in_the_mean() -> None:
    costs = np.full(20, 0.1)
    bad = np.where(np.arange(20) == 3, 2.1, 0.1)
    assert mean_gain(bad, costs[None, :]).value == pytest.approx(0.1)


def test_splits_share_no_window() -> None:
    pools = [pool_for(replace(PLAYED, split=split)).windows for split in ("train", "validation", "test")]
    seeds = [set(range(pool.first_seed, pool.first_seed + pool.size)) for pool in pools]
    assert sum(map(len, seeds)) == len(set.union(*seeds))


def test_the_bound_is_cheaper_than_the_base_on_the_mean_and_than_clairvoyance_on_every_window() -> None:
    test = replace(PLAYED, split="test")
    least, ideal = bound(test).cost_j, play(pool_for(replace(test, base="clairvoyant")), base).cost_j
    assert (least <= ideal + 1e-12).all()
    assert least.mean() < play(pool_for(test), base).cost_j.mean()


@pytest.fixture(scope="module")
def report(learned: Any, small: Path) -> Report:
    card = replace(learned.agent.card, pipelines=("small",))
    asked = Asked(windows=4, validation=4, events=1, level=10.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("loki_rl.agents.evaluate.families.WINDOW_S", 120)
        return evaluate(replace(PLAYED, pipeline=str(small)), {"learned 0": replace(learned.agent, card=card)}, asked)


def test_a_report_has_rules_agents_and_the_bound(report: Report) -> None:
    names = [row.method for row in report.fluid]
    assert (names[0], *names[-2:]) == ("exact", "learned 0", "bound")
    assert names[1].startswith("always x")
    assert " ? x" in names[2] or names[2].startswith("always x")
    plain, least = report.fluid[0], report.fluid[-1]
    assert (plain.saved.value, plain.share.value) == (0.0, 0.0)
    assert least.share.value == pytest.approx(1.0)


def test_the_judge_has_every_family_and_policy(report: Report) -> None:
    rules = {row.method for row in report.fluid} - {"exact", "bound"}
    assert {one.policy for one in report.events} == {"clairvoyant", *rules}
    assert {one.family for one in report.events} == {*KINDS, ""}
    # In the first second nothing was counted yet.
    assert all(one.trusted > 0.99 for one in report.events if one.policy.startswith("always"))


def test_a_report_is_written_as_text_and_curves(report: Report, tmp_path: Path) -> None:
    write(report, tmp_path)
    assert table(report) in (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "event twin and exact allocator, by family" in table(report)
    assert msgspec.json.decode((tmp_path / "report.json").read_bytes(), type=Report) == report
    assert len(list(tmp_path.glob("fluid/*/events.*"))) == len(report.fluid)
    assert {"fluid", "events", "windows", "pipeline"} == set(as_json(report))


def test_an_agent_outside_of_what_it_saw_leaves_the_decision_to_the_base(learned: Any) -> None:
    """An agent trained at one load time adjusts nothing at another."""
    elsewhere = pool_for(replace(PLAYED, split="test", load_s=20.0))
    guarded, plain = play(elsewhere, GuardedAgent(learned.agent)), play(elsewhere, base)
    free = play(elsewhere, greedy(learned.agent.weights, learned.agent.biases, 0.0))
    assert guarded.cost_j.tolist() == plain.cost_j.tolist() != free.cost_j.tolist()


def test_an_agent_sits_out_after_it_was_not_believed(learned: Any) -> None:
    low, high = np.array(learned.agent.card.low), np.array(learned.agent.card.high)
    usual = ((low + high) / 2).astype(np.float32)[None, :]
    forced = np.zeros((1, ACTIONS), np.int8)
    forced[0, 0] = 1
    shielded = GuardedAgent(learned.agent)
    chosen = [int(shielded(seen, forced)[0]) for seen in (usual, usual + 9, usual, usual, usual)]
    assert chosen == [0, NO_ADJUSTMENT, NO_ADJUSTMENT, NO_ADJUSTMENT, 0]
