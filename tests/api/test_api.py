"""What `import loki_rl` offers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import loki_rl
from loki_rl.control.allocator.allocate import allocate
from loki_rl.control.formulation.request import Request
from loki_rl.reports.plots import PlotError
from loki_rl.runs.options import RunOptions
from loki_rl.runs.run import run_twin


def test_every_name_is_there_and_documented_and_none_is_loaded_before_it_is_used() -> None:
    assert all(getattr(loki_rl, name).__doc__ for name in loki_rl.__all__)
    assert set(loki_rl.__all__) <= set(dir(loki_rl))
    code = "import sys, loki_rl; print([name for name in sys.modules if name.startswith(('loki_rl.', 'numpy', 'msgspec'))])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


def test_a_name_that_is_not_there_is_no_attribute() -> None:
    with pytest.raises(AttributeError, match="no attribute 'serv'"):
        loki_rl.serv  # noqa: B018


def test_a_plan_is_the_allocators(small: Path) -> None:
    file = loki_rl.load_pipeline(small)
    found = loki_rl.plan(file, 20.0)
    same = allocate(file.pipeline, Request(demand_rps=20.0, servers=file.pipeline.servers))
    assert (found.mode, found.servers, found.placements) == (same.mode, same.servers, same.placements)
    assert found.pipeline == "small"
    assert set(same.reasons) <= set(found.reasons)
    assert "small" in repr(found)


def test_a_file_that_was_loaded_keeps_its_slo(small: Path) -> None:
    slo_ms = 2000 * loki_rl.load_pipeline(small).pipeline.slo_s
    named = loki_rl.simulate(small, to_s=5, slo_ms=slo_ms)
    loaded = loki_rl.simulate(loki_rl.load_pipeline(small, slo_ms=slo_ms), to_s=5)
    assert loaded.options.slo_ms == slo_ms
    assert loaded.summary == named.summary


def test_a_ladder_has_a_plan_for_each_demand_in_rising_order(small: Path) -> None:
    found = loki_rl.ladder(small, [40.0, 10.0, 20.0])
    assert [plan.demand_rps for plan in found.plans] == [10.0, 20.0, 40.0]
    assert len(loki_rl.ladder(small, (rate for rate in (10, 20, 40))).plans) == 3  # type: ignore[arg-type]
    for nothing in ([], 300, "300", [-1.0]):
        with pytest.raises(loki_rl.UserError, match="ladder, at 'demands"):
            loki_rl.ladder(small, nothing)  # type: ignore[arg-type]


def test_a_capacity_can_be_served_and_more_than_it_cannot(small: Path) -> None:
    most = loki_rl.capacity(small, 4).capacity_rps
    assert loki_rl.plan(small, 0.99 * most, 4).served_fraction == pytest.approx(1.0)
    assert loki_rl.plan(small, 1.05 * most, 4).mode == "shed"


def test_a_run_is_that_of_the_command_and_is_kept_where_asked(small: Path, tmp_path: Path) -> None:
    found = loki_rl.simulate(small, policy="hardware", to_s=5, logdir=tmp_path)
    same = run_twin(RunOptions(pipeline=str(small), policy="hardware", to_s=5.0))
    assert found.summary == same.summary
    assert found.folder is not None
    assert (found.folder / "summary.json").is_file()
    assert "hardware" in repr(found)


def test_a_comparison_has_a_run_for_each_policy_and_seed(small: Path, tmp_path: Path) -> None:
    found = loki_rl.compare(small, policies=["hardware", "exact"], seeds=2, to_s=5, logdir=tmp_path)
    assert [(run.options.policy, run.options.seed) for run in found.results] == [
        (policy, seed) for seed in (0, 1) for policy in ("hardware", "exact")
    ]
    assert all(isinstance(run, loki_rl.Run) for run in found.results)
    assert found.report.is_file()
    assert "4 runs" in repr(found)


def test_tables_hold_what_was_counted(small: Path, tmp_path: Path) -> None:
    pytest.importorskip("pandas")
    run = loki_rl.simulate(small, to_s=5)
    seconds = run.to_pandas()
    assert len(seconds) == 5
    assert seconds["serving/demand_rps"].sum() == run.summary.arrivals
    assert run.phases()["end_s"].iloc[-1] == 5
    plan = loki_rl.plan(small, 20.0)
    assert plan.to_pandas()["replicas"].sum() == plan.servers
    assert list(loki_rl.ladder(small, [10, 20]).to_pandas().index) == [10, 20]
    found = loki_rl.compare(small, policies=["hardware", "exact"], to_s=5, logdir=tmp_path)
    assert list(found.to_pandas()["policy"]) == ["hardware", "exact"]
    assert list(found.means()["n"]) == [1, 1]


def test_pictures_are_png(small: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    found = loki_rl.compare(small, policies=["hardware", "exact"], to_s=5, logdir=tmp_path)
    assert isinstance(found.results[0], loki_rl.Run)
    pictures = [
        loki_rl.plan(small, 20.0).plot(),
        loki_rl.ladder(small, [10, 20]).plot(),
        found.results[0].plot(),
        found.plot(),
        found.timeline(),
    ]
    assert all(picture._repr_png_().startswith(b"\x89PNG") for picture in pictures)
    assert pictures[0].save(tmp_path / "plan.png").read_bytes() == pictures[0].png
    with pytest.raises(PlotError, match="no run was on trace 'nope'"):
        found.timeline("nope")


def test_without_pandas_a_table_is_refused_in_a_sentence(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(loki_rl.UserError, match=r"pip install 'loki-rl\[notebook\]'"):
        loki_rl.plan(small, 20.0).to_pandas()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"polcy": "exact"}, "unknown key 'polcy'; did you mean 'policy'"),
        ({"servers": 0}, "at 'servers': expected a whole number >= 1"),
        ({"slo_ms": 1e308}, "at 'slo_ms': expected a number <= 86400000"),
        ({"driver": "gpu"}, "at 'driver': invalid enum value 'gpu'; it is one of twin, emulated, onnx"),
        ({"trace": np.arange(5)}, "at 'trace': expected text, got numpy.ndarray"),
        ({"faults": {"seed": 1}}, "faults: expected a path, got dict"),
        ({"logdir": Path("/dev/null")}, "nothing can be written to /dev/null"),
        ({"policy": "exat"}, "did you mean 'exact'"),
        ({"trace": "flash_crow"}, "did you mean 'flash_crowd'"),
    ],
)
def test_what_is_wrong_is_a_sentence_that_names_it(small: Path, options: dict[str, object], says: str) -> None:
    with pytest.raises(loki_rl.UserError, match=says):
        loki_rl.simulate(small, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"slo_ms": -1.0}, "plan, at 'slo_ms': expected a number > 0"),
        ({"slo_ms": np.inf}, "plan, at 'slo_ms': expected a number <= 86400000"),
        ({"demand": np.nan}, "plan, at 'demand': expected a number >= 1e-06"),
        ({"demand": 10**400}, "plan, at 'demand': number out of range"),
        ({"demand": "300"}, "plan, at 'demand': expected a number, got text"),
        ({"servers": 1.5}, "plan, at 'servers': expected a whole number or nothing, got a number"),
        ({"queueing": "no"}, "plan, at 'queueing': invalid enum value 'no'; it is one of half-slo, tail"),
        ({"pool": 5}, "plan, at 'pool': expected text or nothing, got a whole number"),
        ({"pipeline": None}, "pipeline: expected a path, got NoneType"),
        ({"pipeline": "trafic"}, "no pipeline 'trafic'"),
    ],
)
def test_a_question_that_makes_no_sense_is_refused(small: Path, given: dict[str, object], says: str) -> None:
    with pytest.raises(loki_rl.UserError, match=says):
        loki_rl.plan(**{"pipeline": small, "demand": 20.0, **given})  # type: ignore[arg-type]


def test_numbers_of_numpy_are_numbers(small: Path) -> None:
    asked = loki_rl.plan(small, np.float32(20), np.int64(4), slo_ms=np.float64(200))  # type: ignore[arg-type]
    assert asked.placements == loki_rl.plan(small, 20.0, 4, slo_ms=200.0).placements
    assert [plan.demand_rps for plan in loki_rl.ladder(small, np.array([20, 10])).plans] == [10, 20]  # type: ignore[arg-type]
    run = loki_rl.simulate(small, seed=np.int64(3), mean_rps=np.float32(20), to_s=np.float64(5))  # type: ignore[arg-type]
    assert run.options == loki_rl.simulate(small, seed=3, mean_rps=20.0, to_s=5.0).options


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"policies": []}, "compare, at 'policies': expected a list of length >= 1"),
        ({"policies": [None]}, "at 'policies.0.': expected text, got nothing"),
        ({"drivers": ["gpu"]}, "at 'drivers.0.': invalid enum value 'gpu'"),
        ({"seeds": 0}, "at 'seeds': expected a whole number >= 1"),
        ({"jobs": -1}, "at 'jobs': expected a whole number >= 1"),
        ({"traces": 5}, "at 'traces': expected a list, got a whole number"),
    ],
)
def test_a_comparison_of_nothing_is_refused(small: Path, given: dict[str, Any], says: str) -> None:
    with pytest.raises(loki_rl.UserError, match=says):
        loki_rl.compare(small, **given)


def test_one_policy_and_one_driver_need_no_list(small: Path, tmp_path: Path) -> None:
    found = loki_rl.compare(small, policies="hardware", drivers="twin", to_s=5, logdir=tmp_path)
    assert [done.options.policy for done in found.results] == ["hardware"]
