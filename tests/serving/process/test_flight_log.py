"""What the processes of a plane record together adds up with its ledger, whichever of them ends meanwhile."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from loki_rl.core.messages import Outcome
from loki_rl.core.options import ClusterOptions
from loki_rl.flight.columns import read_flight
from loki_rl.flight.file import VERSION, Head, begin
from loki_rl.serving.gateway.client import Client
from loki_rl.serving.process.flight_log import RECORDING
from loki_rl.serving.process.launch import LocalPlane
from tests.serving.driving import PATIENCE_S, drive, eventually
from tests.serving.process.test_supervisor import STATIC, end, follow
from tests.serving.process.test_supervisor import base as base


def begun(folder: Path, options: ClusterOptions) -> Path:
    begin(folder / "flight", Head(VERSION, options, "{}", "here", 0.0, 0.0))
    return folder / "flight"


def test_a_recording_adds_up_with_the_ledger(quick_traffic: ClusterOptions, base: Path, tmp_path: Path) -> None:  # noqa: ARG001
    file = begun(tmp_path, quick_traffic)
    with LocalPlane(quick_traffic, **STATIC, recording=file) as plane, Client(plane.front) as client:
        client.infer(timeout_s=PATIENCE_S)
        client.begin_run()
        drive(client, 1.0, 30.0)
        eventually(lambda: len(read_flight(file)[1].loads) == 4, "not all loads are written down")
        for name in ("workers-1", "router-1"):
            former = end(plane, name)
            drive(client, 1.0, 30.0)
            follow(plane, name, former)
        eventually(lambda: len(read_flight(file)[1].loads) == 4 + 2, "a worker's second life is not written down")
        client.infer(timeout_s=PATIENCE_S, min_accuracy=0.5, priority=2)
        tally = client.ledger().tally
    head, flight = read_flight(file)
    assert head.cluster == quick_traffic
    assert flight.origin is not None
    arrivals, answers = flight.arrivals, flight.answers
    assert len(arrivals) == tally.arrivals + 1, "and the one before the run began"
    assert np.sum(arrivals["at"] >= flight.origin) == tally.arrivals
    counted = np.bincount(answers["outcome"][answers["at"] >= flight.origin], minlength=len(Outcome))
    assert counted.tolist() == [tally.outcome(outcome) for outcome in Outcome]
    assert np.isclose(answers["accuracy"][1:].sum(), tally.accuracy_sum)
    assert (arrivals[-1]["timeout_s"], arrivals[-1]["min_accuracy"], arrivals[-1]["priority"]) == (PATIENCE_S, 0.5, 2)
    assert flight.usage["servers"].max() == 4
    # A process that is killed takes what it has not written yet with it.
    assert flight.services["items"].sum() > 0
    assert {row.mode for row in flight.plans} - {None}


def test_a_gateway_that_was_started_again_goes_on_with_the_recording(
    quick_traffic: ClusterOptions,
    base: Path,  # noqa: ARG001
    tmp_path: Path,
) -> None:
    file = begun(tmp_path, quick_traffic)
    with LocalPlane(quick_traffic, **STATIC, recording=file) as plane, Client(plane.front) as client:
        client.begin_run()
        drive(client, 1.5, 20.0)
        follow(plane, "gateway", end(plane, "gateway"))
        client.wait_ready(PATIENCE_S)
        counts = drive(client, 1.0, 20.0)
        tally = client.ledger().tally
    flight = read_flight(file)[1]
    assert flight.origin is not None
    assert sum(counts.values()) <= len(flight.arrivals) <= tally.arrivals
    assert np.all(np.diff(flight.arrivals["at"]) >= 0)


def test_a_recording_that_is_not_there_is_a_trouble_and_no_failure(
    quick_traffic: ClusterOptions,
    base: Path,  # noqa: ARG001
    tmp_path: Path,
) -> None:
    with LocalPlane(quick_traffic, **STATIC, recording=tmp_path / "none") as plane, Client(plane.front) as client:
        client.begin_run()
        assert client.infer(timeout_s=PATIENCE_S).outcome == "ok"
        names = {*plane.pids}
        said = {one.process for one in client.state().troubles if one.kind == RECORDING}
        eventually(lambda: {one.process for one in client.state().troubles if one.kind == RECORDING} == names, f"{said}")
