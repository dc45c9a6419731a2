"""From a recording to a file, and from that to a run in the twin and its run.json."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from loki_rl.control.policies.named import make_policy
from loki_rl.control.policies.options import PolicyOptions
from loki_rl.core.options import ClusterOptions
from loki_rl.env.simulate import simulate
from loki_rl.files.config import load_pipeline
from loki_rl.flight.file import VERSION, Head, Writer, begin
from loki_rl.flight.sifter import Sifter
from loki_rl.reports.compare import build_cases
from loki_rl.runs.options import RunOptions

Call = Callable[..., Any]


@pytest.fixture
def run_folder(small: Path, tmp_path: Path) -> Path:
    """With a recording of ten seconds of the small pipeline."""
    pipeline = load_pipeline(small).pipeline
    cluster = ClusterOptions(pipeline, pipeline.servers, interval_s=1.0)
    folder = tmp_path / "run"
    folder.mkdir()
    begin(folder / "flight", Head(VERSION, cluster, '{"policy": "exact"}', "a host", 0.0, 0.0))
    writer = Writer(folder / "flight")
    policy = make_policy("exact", pipeline, PolicyOptions(servers=cluster.servers, initial_rps=30.0))
    simulate(cluster, policy.decide, np.arange(0.0, 10.0, 0.03), 10.0, record=Sifter(writer.put, pipeline).record)
    writer.close()
    return folder


def test_a_recording_becomes_a_calibration_and_that_a_run(call: Call, small: Path, run_folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "new" / "here.json"
    made = call("calibrate", run_folder, "--out", file, "--json").json
    assert (made["file"], made["pipeline"], made["speeds"]) == (str(file), "small", [1.0])
    assert made["batches"] >= 200
    assert set(made["plans_ms"]) == {"all"} | ({"exact"} if "exact" in made["plans_ms"] else set())
    played = call("simulate", small, "--to-s", 5, "--calibration", file, "--logdir", tmp_path / "runs", "--json").json
    assert played["arrivals"] > 0
    (kept,) = (tmp_path / "runs").rglob("run.json")
    assert json.loads(kept.read_text())["calibration"] == str(file)
    again = call("simulate", "--config", kept, "--json").json
    assert {**again, "wall_s": 0} == {**played, "wall_s": 0}


def test_it_is_shown_to_people(call: Call, run_folder: Path, tmp_path: Path) -> None:
    said = call("calibrate", run_folder / "flight", "--out", tmp_path / "c.json")
    assert said.code == 0
    assert "batches of a recording, a host" in said.out
    assert "speed of each beside others: 1.00" in said.out


def test_a_comparison_takes_it_and_knows_its_runs_again(call: Call, small: Path, run_folder: Path, tmp_path: Path) -> None:
    call("calibrate", run_folder, "--out", tmp_path / "c.json", "--json")
    words = ("--policies", "exact", "--driver", "twin", "--to-s", 4, "--logdir", tmp_path / "runs", "--json")
    plain = call("compare", small, *words).json
    fitted = call("compare", small, "--calibration", tmp_path / "c.json", *words).json
    assert plain["reused"] == fitted["reused"] == 0
    assert call("compare", small, "--calibration", tmp_path / "c.json", *words).json["reused"] == 1


def test_planes_of_a_comparison_do_without() -> None:
    options = RunOptions("traffic", calibration="c.json")
    cases = build_cases(options, policies=["exact"], traces=["diurnal"], seeds=[0], drivers=["twin", "emulated"])
    assert [(case.driver, case.calibration) for case in cases] == [("twin", "c.json"), ("emulated", None)]
