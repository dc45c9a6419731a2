"""The evaluation's protocol and its statistics."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

pytest.importorskip("sb3_contrib", reason="training is not installed; run 'make learn'")

from loki_rl.agents import evaluate as module
from loki_rl.agents.evaluate import evaluate, table
from loki_rl.agents.rollouts import base, play
from loki_rl.agents.statistics import bootstrap, gap_closed, iqm, paired_gain
from loki_rl.agents.train import TrainOptions
from loki_rl.env.cluster_options import pool_for


def test_the_interquartile_mean_ignores_the_ends() -> None:
    assert iqm(np.array([-1000.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 1000.0])) == 3.5


def test_an_interval_holds_its_value_and_narrows_with_windows() -> None:
    rng = np.random.default_rng(0)
    wide = bootstrap(rng.normal(1.0, 1.0, (2, 10, 1)), lambda x: float(x.mean()))
    narrow = bootstrap(rng.normal(1.0, 1.0, (2, 400, 1)), lambda x: float(x.mean()))
    assert wide.low <= wide.value <= wide.high
    assert narrow.high - narrow.low < wide.high - wide.low


def test_the_gap_is_a_share_of_sums() -> None:
    basis, ideal = np.array([1.0, 1.0, 2.0]), np.array([0.0, 1.0, 1.0])
    half = np.array([[0.5, 1.0, 1.5]])
    assert gap_closed(basis, half, ideal).value == pytest.approx(0.5)
    assert gap_closed(basis, basis[None, :], ideal).value == 0.0


def test_a_pair_that_is_the_same_gains_nothing() -> None:
    costs = np.linspace(0.1, 0.2, 20)
    gain = paired_gain(costs, costs[None, :])
    assert (gain.value, gain.low, gain.high) == (0.0, 0.0, 0.0)


def test_splits_share_no_window(tiny: TrainOptions) -> None:
    pools = [pool_for(replace(tiny.env, split=split)).windows for split in ("train", "validation", "test")]
    seeds = [set(range(pool.first_seed, pool.first_seed + pool.size)) for pool in pools]
    assert sum(map(len, seeds)) == len(set.union(*seeds))


def test_clairvoyance_is_cheaper_than_the_base(tiny: TrainOptions) -> None:
    costs = {
        name: play(pool_for(replace(tiny.env, split="test", intervals=30, windows=12, base=name)), base).cost.mean()
        for name in ("forecast", "clairvoyant")
    }
    assert costs["clairvoyant"] < costs["forecast"]


def test_a_report_has_every_method_and_both_bases(trained: Any, monkeypatch: pytest.MonkeyPatch, tiny: TrainOptions) -> None:
    monkeypatch.setattr(module, "SCALES", (1.0, 1.2))
    report = evaluate(tiny.env, [trained.agent, trained.agent], windows=6, tuning=4)
    assert [row.policy for row in report.rows] == ["exact", "forecast", "clairvoyant", "ppo"]
    assert [gap.base for gap in report.gaps] == ["exact", "forecast"]
    assert {one.trials for one in report.tuned} == {4}
    text = table(report)
    assert "gap from forecast closed" in text
