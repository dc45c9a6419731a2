"""Loki's own optimum: plans under its latency model are never worse."""

from __future__ import annotations

import csv
from pathlib import Path

from loki_rl.control.allocator.allocate import allocate
from loki_rl.control.formulation.request import Request
from loki_rl.files.config import load_pipeline

ROOT = Path(__file__).parents[3]
OPTIMUM = ROOT / "tests" / "data" / "loki" / "optimum_traffic_chain.csv"
MODES = {"hw": 0, "as": 1, "infeasible": 2, "hardware": 0, "accuracy": 1, "shed": 2}


def test_no_row_of_lokis_optimum_is_better() -> None:
    """Some rows are beaten by up to .4 points, because a variant here may run at several batch sizes at once."""
    pipeline = load_pipeline(ROOT / "pipelines" / "traffic-published.yaml").pipeline
    with OPTIMUM.open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) > 30
    for row in rows:
        plan = allocate(pipeline, Request(float(row["demand_qps"]), servers=18, queueing="half-slo"))
        mode = MODES[row["mode"]]
        assert MODES[plan.mode] <= mode, row
        if mode == 0:
            assert plan.servers <= int(row["servers"]), row
        if mode < 2:
            assert 100 * plan.accuracy >= float(row["accuracy_pct"]) - 1e-3, row
