"""What a calibration comes to in the fluid twin: the rates, load times and lateness that it means."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from loki_rl.control.fast.table import Table
from loki_rl.control.learned.observation import NO_ADJUSTMENT
from loki_rl.env.fluid.batch import Batch
from loki_rl.env.fluid.means import means_of
from loki_rl.env.gym.cluster_env import ClusterEnv
from loki_rl.env.gym.cluster_options import ClusterEnvOptions, pool_for
from loki_rl.files.calibration_file import (
    LEVELS,
    Calibration,
    Contention,
    DelayTimes,
    LoadTimes,
    Median,
    PlanTimes,
    Recorded,
    ServiceTimes,
)
from loki_rl.files.tables import ConfigError


def _flat(value: float) -> tuple[float, ...]:
    return (value,) * len(LEVELS)


PLAIN = Calibration(
    pipeline="one-task",
    host="",
    created="",
    command="",
    recordings=(Recorded("flight", "exact", 10, 60.0, 10, 10),),
    services=(ServiceTimes(None, None, 9, _flat(1.0)),),
)
# Of one_task's rows: mean over median.
USUAL = 0.725 + 0.245 * 1.05 + 0.03 * 1.1


def test_rates_are_those_that_were_seen(table: Table) -> None:
    rows = (ServiceTimes("task", "v0", 9, _flat(2.0)), *PLAIN.services)
    means = means_of(replace(PLAIN, services=rows), table.fleet, 20, 1.0)
    assert means.speed.tolist() == pytest.approx([USUAL / 2, *[USUAL] * 4])
    assert means.load.tolist() == [1.0] * 5
    assert means.late_s == 0


def test_what_was_profiled_when_it_was_recorded_counts(table: Table) -> None:
    known = tuple(Median(n, 1000 * n / 31.0 * 2) for n in (1, 2, 4))
    rows = (ServiceTimes("task", "v0", 9, _flat(1.0), known), *PLAIN.services)
    assert means_of(replace(PLAIN, services=rows), table.fleet, 20, 1.0).speed[0] == pytest.approx(USUAL / 2)


def test_hand_overs_take_their_share(table: Table) -> None:
    delays = (DelayTimes("handover_next", 9, _flat(0.01)),)
    speed = means_of(replace(PLAIN, delays=delays), table.fleet, 20, 1.0).speed[0]
    assert speed == pytest.approx(USUAL * np.mean([n / 31 / (n / 31 + 0.01) for n in (1, 2, 4)]))


def test_servers_that_are_busy_slow_each_other_and_loads(table: Table) -> None:
    """Half of ten were busy, so it is taken that half of twenty are."""
    crowded = replace(
        PLAIN, contention=Contention((1.0, *[0.8] * 8, 0.5), 5.0), loads=(LoadTimes(None, None, 9, _flat(1.5)),)
    )
    means = means_of(crowded, table.fleet, 20, 1.0)
    assert means.speed.tolist() == pytest.approx([0.5 * USUAL] * 5)
    assert means.load.tolist() == pytest.approx([3.0] * 5)
    assert means_of(crowded, table.fleet, 10, 1.0).speed[0] == pytest.approx(0.8 * USUAL)


def test_load_times_of_a_variant_are_its_own(table: Table) -> None:
    loads = (LoadTimes("task", "v1", 9, _flat(10.0)), LoadTimes(None, None, 9, _flat(0.5)))
    assert means_of(replace(PLAIN, loads=loads), table.fleet, 20, 1.0).load.tolist() == [0.5, 2.0, 0.5, 0.5, 0.5]


@pytest.mark.parametrize(("thought_s", "late_s"), [(0.3, 0), (0.99, 0), (1.2, 1), (2.6, 3)])
def test_plans_that_take_longer_than_an_interval_are_of_older_counts(table: Table, thought_s: float, late_s: int) -> None:
    plans = (PlanTimes(None, 9, _flat(thought_s)),)
    assert means_of(replace(PLAIN, plans=plans), table.fleet, 20, 1.0).late_s == late_s


def _costs(small: dict[str, Any], calibration: str | None) -> tuple[float, int]:
    pool = pool_for(ClusterEnvOptions(pipeline="one-task", calibration=calibration, **small))
    batch, windows = Batch(pool, 2), np.arange(2)
    pool.ensure(windows)
    batch.start(windows, windows)
    total = 0.0
    for _ in range(pool.options.intervals):
        batch.step(np.full(2, NO_ADJUSTMENT))
        total += float(batch.costs.sum())
    return total, int(pool.windows.lag_s.max())


def test_environments_play_with_it(small: dict[str, Any], tmp_path: Path) -> None:
    slow = replace(PLAIN, services=(ServiceTimes(None, None, 9, _flat(3.0)),), plans=(PlanTimes("exact", 9, _flat(2.0)),))
    slow.save(tmp_path / "slow.json")
    (plain, lag_s), (costs, later_s) = (_costs(small, None), _costs(small, str(tmp_path / "slow.json")))
    assert costs > 2 * plain
    assert later_s == lag_s + 2
    event = ClusterEnv(pipeline="one-task", calibration=str(tmp_path / "slow.json"), fidelity="event", **small)
    event.reset(options={"window": 0, "paired": False})
    *_, info = event.step(NO_ADJUSTMENT)
    assert info["slo_violation_ratio"] > 0.2


def test_a_calibration_of_something_else_is_refused(small: dict[str, Any], tmp_path: Path) -> None:
    replace(PLAIN, pipeline="traffic").save(tmp_path / "c.json")
    with pytest.raises(ConfigError, match="is of pipeline 'traffic', not of 'one-task'"):
        ClusterEnv(pipeline="one-task", calibration=str(tmp_path / "c.json"), **small)
