"""The judge: paired differences by family, and policies as anyone runs them."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from loki_rl.agents.evaluate.families import KINDS, cut, generated
from loki_rl.agents.evaluate.judge import Run, run, verdicts
from loki_rl.runs.options import RunOptions
from loki_rl.traces.trace import load_trace


def one(family: str, window: int, policy: str, cost_j: float, violations: float = 0.0) -> Run:
    return Run(
        family=family, window=window, level=131.0, policy=policy, cost_j=cost_j, violations=violations, accuracy=0.9,
        servers=20.0,
    )  # fmt: skip


def test_differences_are_paired_by_window_and_the_gap_is_a_share_of_sums() -> None:
    runs = [one("calm", n, "exact", 0.1 * (n + 1)) for n in range(4)] + [one("wild", n, "exact", 1.0) for n in range(4)]
    runs += [replace(r, policy="clairvoyant", cost_j=r.cost_j / 2) for r in runs]
    mine = [replace(r, policy="learned", cost_j=r.cost_j * 0.75, violations=0.01) for r in runs if r.policy == "exact"]
    found = {(v.policy, v.family): v for v in verdicts([*runs, *reversed(mine)])}
    assert set(found) == {(policy, family) for policy in ("clairvoyant", "learned") for family in ("calm", "wild", "")}
    calm, every = found["learned", "calm"], found["learned", ""]
    assert calm.saved.value == pytest.approx(0.25 * 0.25)
    assert calm.saved.low < calm.saved.value < calm.saved.high
    assert (every.share.value, every.share.low, every.share.high) == pytest.approx((0.5, 0.5, 0.5))
    assert every.more_lost.value == pytest.approx(0.01)
    assert every.windows == 8


def test_a_window_of_every_kind_and_of_a_trace_has_the_mean_that_was_asked_for(small: Path, tmp_path: Path) -> None:
    trace = tmp_path / "mine.csv"
    trace.write_text("t_seconds,requests\n" + "".join(f"{i},{20 + i % 7}\n" for i in range(2000)))
    of = RunOptions(str(small), servers=4)
    found = [*generated(tmp_path, of, 30.0, 1), *cut({trace: 2.0}, of, 30.0, 1, 3)]
    assert [window.family for window in found] == [*KINDS, "mine"]
    last = found[-1].options
    assert last.compress == 2.0
    assert (last.from_s, last.to_s) == pytest.approx((700.0, 1300.0), abs=2.0)
    assert all(window.options.mean_rps == 30.0 for window in found)
    assert load_trace(found[0].options.trace).counts.sum() > 0


def test_a_policy_is_run_as_anyone_runs_it(small: Path, tmp_path: Path) -> None:
    window = next(generated(tmp_path, RunOptions(str(small), servers=4), 30.0, 0))
    found = run(window, "as it is", "exact")
    assert (found.family, found.window, found.policy) == ("bursts", 0, "as it is")
    assert found.trusted == 1.0
    assert found.cost_j > 0
    assert found.accuracy > 0
