"""Every kind of fault strikes planes of real processes: emulated workers, and real sessions. All requests are accounted
for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from loki_rl.core.options import ClusterOptions
from loki_rl.core.pipeline import Latency, Pipeline, Task, Variant
from loki_rl.serving.chaos import trial
from loki_rl.serving.chaos.schedule import KINDS, Kind
from loki_rl.serving.chaos.trial import Ordeal, Verdict, hold
from tests.serving.driving import patient
from tests.serving.profiling.test_own_models import ROOT
from tests.serving.profiling.test_own_models import site as site  # a fixture

EVERY_S, RPS, SLO_S = 0.8, 20.0, 2.0
ROW = {1: Latency(0.01, 0.01, 0.01), 4: Latency(0.02, 0.02, 0.02)}
EMULATED = Pipeline(
    "stages",
    SLO_S,
    (
        Task("find", (Variant("quick", 0.8, ROW, {"read": 2.0}), Variant("good", 1.0, ROW, {"read": 2.0})), entry=1.0),
        Task("read", (Variant("only", 1.0, ROW),), parent="find"),
    ),
    {"read": 1.0},
)


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "BEFORE_S", 1.0)
    monkeypatch.setattr(trial, "AFTER_S", 1.0)


def ordeal(kinds: tuple[Kind, ...], count: int) -> Ordeal:
    return Ordeal(
        ClusterOptions(patient(EMULATED), 4),
        "emulated",
        rps=RPS,
        count=count,
        every_s=EVERY_S,
        kinds=kinds,
        seed=3,
        sample=np.frombuffer(b"sample", np.uint8),
        policy="static",
        policy_options={"servers": 4, "demand_rps": 100.0},
    )


def nothing_is_missing(found: Verdict) -> None:
    mine = found.account
    assert found.passed, found
    assert (mine.lost, mine.twice, mine.unexplained, found.alive, found.crashes) == (0, 0, 0, "", [])
    assert mine.requests == sum(mine.told.values()) + mine.cut + mine.refused
    assert mine.told["ok"] > 0


def test_every_kind_of_fault_is_survived_and_every_request_accounted_for() -> None:
    told: list[tuple[int, int]] = []
    found = hold(ordeal(KINDS, len(KINDS)), lambda done, of: told.append((done, of)))
    nothing_is_missing(found)
    assert told[-1] == (len(KINDS), len(KINDS))
    assert found.faults + found.skipped == len(KINDS)
    struck = {row.kind: row for row in found.rows}
    assert {"hang", "poison", "disk"} <= struck.keys()
    assert struck["poison"].noticed == 1
    assert found.account.told["failed"] + found.account.told["late"] + found.account.told["dropped"] >= 2


def test_real_models_hang_crash_slow_down_and_are_damaged(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", f"{site}:{ROOT}")
    monkeypatch.syspath_prepend(str(site))
    variants = tuple(Variant(name, accuracy, ROW, load_s=0.2) for name, accuracy in (("small", 0.75), ("large", 1.0)))
    pipeline = Pipeline("tone", SLO_S, (Task("classify", variants, entry=1.0),), {"classify": 1.0})
    pictures = [np.full((8, 8, 3), shade, np.uint8) for shade in (40, 200)]
    kinds: tuple[Kind, ...] = ("hang", "poison", "slow", "corrupt", "missing")
    found = hold(
        Ordeal(
            ClusterOptions(pipeline, 3),
            "onnx",
            rps=RPS / 2,
            count=len(kinds),
            every_s=2.5,
            kinds=kinds,
            seed=63,
            sample=pictures[0],
            payloads=pictures,
            pipeline_file=str(site / "tone.yaml"),
            repository=site / "models",
            policy="static",
            policy_options={"servers": 3, "demand_rps": 450.0},
        ),
        lambda _done, _of: None,
    )
    nothing_is_missing(found)
    struck = {row.kind: row for row in found.rows}
    assert {"hang", "poison", "slow"} <= struck.keys()
    assert struck["poison"].noticed == struck["corrupt"].noticed == 1


def test_a_plane_that_nobody_hurts_takes_no_orders() -> None:
    """Its nodes are not those of a trial: they know no folder of orders and no message that could hurt them."""
    code = "import sys, loki_rl.serving.process.node as n; print(any('chaos' in m for m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "False"
