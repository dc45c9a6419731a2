"""The evaluation's protocol and its statistics."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from msgspec.structs import replace

pytest.importorskip("sb3_contrib", reason="training is not installed; run 'make learn'")

from loki_rl.agents.evaluate import event_check
from loki_rl.agents.evaluate import shifts as shifting
from loki_rl.agents.evaluate.evaluation import Asked, Report, evaluate
from loki_rl.agents.evaluate.guarded_agent import GuardedAgent
from loki_rl.agents.evaluate.methods import Method
from loki_rl.agents.evaluate.report import as_json, table, write
from loki_rl.agents.evaluate.rollouts import base, play
from loki_rl.agents.train.training import TrainOptions
from loki_rl.control.learned.observation import ACTIONS, NO_ADJUSTMENT
from loki_rl.env.gym.cluster_options import pool_for
from loki_rl.reports.statistics import bootstrap, gap_closed, iqm, mean_gain, mean_interval, paired_gain


def test_the_interquartile_mean_ignores_the_ends() -> None:
    assert iqm(np.array([-1000.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 1000.0])) == 3.5


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
    for gain in (paired_gain(costs, costs[None, :]), mean_gain(costs, costs[None, :])):
        assert (gain.value, gain.low, gain.high) == (0.0, 0.0, 0.0)


def test_a_rare_bad_window_counts_in_the_mean_and_is_not_usual() -> None:
    costs = np.full(20, 0.1)
    bad = np.where(np.arange(20) == 3, 2.1, 0.1)
    assert paired_gain(bad, costs[None, :]).value == pytest.approx(0.0)
    assert mean_gain(bad, costs[None, :]).value == pytest.approx(0.1)


def test_splits_share_no_window(tiny: TrainOptions) -> None:
    pools = [pool_for(replace(tiny.env, split=split)).windows for split in ("train", "validation", "test")]
    seeds = [set(range(pool.first_seed, pool.first_seed + pool.size)) for pool in pools]
    assert sum(map(len, seeds)) == len(set.union(*seeds))


def test_clairvoyance_is_cheaper_than_the_base(tiny: TrainOptions) -> None:
    costs = {
        name: play(pool_for(replace(tiny.env, split="test", intervals=20, windows=6, base=name)), base).cost_j.mean()
        for name in ("exact", "clairvoyant")
    }
    assert costs["clairvoyant"] < costs["exact"]


@pytest.fixture(scope="module")
def report(trained: Any, tiny: TrainOptions, small: Path) -> Iterator[Report]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shifting, "SHIFTS", {name: shifting.SHIFTS[name] for name in ("none", "load time 20 s", "no bursts")})
        patch.setattr(shifting, "OTHER_PIPELINES", (str(small),))
        patch.setattr(event_check, "INTERVALS", 2)
        asked = Asked(windows=4, tuning=2, shifts=True, traces=("diurnal",), events=1)
        yield evaluate(replace(tiny.env, mean_rps=60.0), [trained.agent, trained.agent], asked)


def test_a_report_has_every_method_and_both_bases(report: Report) -> None:
    assert [row.policy for row in report.rows] == ["exact", "clairvoyant", "unadjusted", "ppo"]
    assert [gap.base for gap in report.gaps] == ["exact", "unadjusted"]
    assert len(report.by_seed) == 2


def test_a_report_has_every_shift_and_both_twins(report: Report, small: Path) -> None:
    shifts = {row.shift for row in report.shifts}
    assert {"none", "load time 20 s", "no bursts", "trace diurnal", f"pipeline {small}"} <= shifts
    assert {(row.gain.value, row.saved.value) for row in report.shifts if row.policy == "exact"} == {(0.0, 0.0)}
    assert [row.policy for row in report.fidelity] == ["exact", "clairvoyant", "unadjusted", "ppo"]
    assert all(row.event.servers > 0 and row.event.cost_j > 0 for row in report.fidelity)


def test_a_report_is_written_as_text_picture_and_curves(report: Report, tmp_path: Path) -> None:
    write(report, tmp_path)
    assert table(report) in (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "gap from exact closed" in table(report)
    assert msgspec.json.decode((tmp_path / "report.json").read_bytes(), type=Report).rows == report.rows
    assert (tmp_path / "report.png").stat().st_size > 10_000
    assert {path.parent.name for path in tmp_path.glob("fluid/*/events.*")} == {row.policy for row in report.rows}
    assert {"gap_closed", "results", "shifts", "fidelity", "same_order"} <= set(as_json(report))


def test_an_agent_outside_of_what_it_saw_leaves_the_decision_to_exact(trained: Any, tiny: TrainOptions) -> None:
    """An agent trained at one load time is `exact` at another."""
    elsewhere = replace(tiny.env, split="test", load_s=20.0)
    agent, exact = (Method("ppo", "exact", agent=one).play(elsewhere) for one in (trained.agent, None))
    assert agent.cost_j.tolist() == exact.cost_j.tolist()


def test_an_agent_sits_out_after_it_was_not_believed(trained: Any) -> None:
    low, high = np.array(trained.agent.card.low), np.array(trained.agent.card.high)
    usual = ((low + high) / 2).astype(np.float32)[None, :]
    mask, shielded = np.ones((1, ACTIONS), np.int8), GuardedAgent(trained.agent)
    assert shielded(usual, mask)[0] >= 0
    assert [int(shielded(odd, mask)[0]) for odd in (usual + 9, usual, usual)] == [NO_ADJUSTMENT] * 3
    assert shielded(usual, mask)[0] >= 0
