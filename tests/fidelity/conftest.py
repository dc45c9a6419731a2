"""Runs of the twin as if they had been a plane's: what is told of them is known."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from loki_rl.control.policies.named import make_policy
from loki_rl.env.faults import Faults
from loki_rl.env.simulate import Simulation, simulate
from loki_rl.fidelity.twin import Recorded, recorded
from loki_rl.flight.columns import Collector
from loki_rl.flight.file import VERSION, Head, Writer, begin
from loki_rl.flight.rows import AnyRow
from loki_rl.flight.sifter import Sifter
from loki_rl.runs.options import RunOptions
from loki_rl.runs.recording import RECORDING
from loki_rl.runs.run import Scene, prepare

Record = Callable[..., tuple[Simulation, Recorded]]


def play(scene: Scene, rows: list[AnyRow], faults: Faults) -> Simulation:
    """In the twin."""
    decide = make_policy(scene.options.policy, scene.pipeline, scene.policy).decide
    record = Sifter(rows.append, scene.pipeline).record
    return simulate(scene.cluster, decide, scene.times, scene.duration_s, record, faults=faults)


@pytest.fixture(scope="session")
def steady(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trace of a minute at 25 requests/s, with a crowd of half as many again."""
    path = tmp_path_factory.mktemp("traces") / "steady.csv"
    counts = [40 if 25 <= second < 40 else 25 for second in range(60)]
    path.write_text("t_seconds,requests\n" + "".join(f"{second},{count}\n" for second, count in enumerate(counts)))
    return path


@pytest.fixture(scope="session")
def record(small: Path, steady: Path) -> Record:
    """Play a minute. faults: of the run alone, the twin that is compared with it is not told."""

    def record(policy: str = "exact", seed: int = 100, faults: Faults = Faults()) -> tuple[Simulation, Recorded]:  # noqa: B008
        scene = prepare(RunOptions(str(small), str(steady), policy, "emulated", seed, interval_s=1.0))
        rows: list[AnyRow] = []
        done = play(scene, rows, faults)
        collector = Collector()
        collector.add(rows)
        return done, recorded(scene.options, scene.cluster, collector.flight())

    return record


@pytest.fixture(scope="session")
def folder(small: Path, steady: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder with its recording."""
    options = RunOptions(str(small), str(steady), "exact", "emulated", 100, interval_s=1.0)
    return write_run(options, tmp_path_factory.mktemp("run"))


def write_run(options: RunOptions, path: Path) -> Path:
    """Play a run and leave its recording in a folder."""
    scene = prepare(options)
    rows: list[AnyRow] = []
    play(scene, rows, Faults())
    head = Head(VERSION, scene.cluster, msgspec.json.encode(scene.options).decode(), "here", 0.0, 0.0)
    begin(path / RECORDING, head)
    writer = Writer(path / RECORDING)
    for row in rows:
        writer.put(row)
    writer.close()
    return path
