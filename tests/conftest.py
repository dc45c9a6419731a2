"""A pipeline and a trace so small that a run takes a moment, and results of runs that never were. Knows no command."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace

from loki_rl.control.allocator.implicit_model import warm
from loki_rl.core.messages import Outcome
from loki_rl.core.plan import Plan
from loki_rl.core.requests.ledger import PlanRecord, Tally, summarise
from loki_rl.files.user_folders import MODELS_VARIABLE, models_folder
from loki_rl.runs.options import Driver, RunOptions
from loki_rl.runs.result import RunResult
from loki_rl.runs.run import run_plane, run_twin

if TYPE_CHECKING:
    from tests.ray_hosts import RayHosts


def pytest_sessionstart() -> None:
    """Compile the solver before any test's time runs."""
    warm()


@pytest.fixture(scope="session", autouse=True)
def shipped_profiles(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What whoever runs the tests has measured of the shipped pipelines counts in none of them; their models do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(MODELS_VARIABLE, str(models_folder()))
        patch.setenv("XDG_DATA_HOME", str(tmp_path_factory.mktemp("data")))
        yield


@pytest.hookimpl(optionalhook=True)  # of pytest-xdist
def pytest_xdist_auto_num_workers() -> int:
    """Tests of planes wait for their processes most of the time: more run side by side than there are cores."""
    return len(os.sched_getaffinity(0)) + 2


PIPELINE = """\
name: small
slo_ms: 400
provenance: assumed
servers: 4
tasks:
  find:
    variants:
      quick: {accuracy: 0.5, load_s: 0.1, fanout: {read: 2}, latency_ms: {1: [4, 5], 2: [7, 8]}}
      good: {accuracy: 1, load_s: 0.1, fanout: {read: 3}, latency_ms: {1: [10, 12]}}
  read:
    parent: find
    variants:
      fast: {accuracy: 0.9, load_s: 0.1, latency_ms: {1: [3, 4], 4: [9, 11]}}
      best: {accuracy: 1, load_s: 0.1, latency_ms: {1: [8, 9], 4: [25, 30]}}
"""
SERVERS = 4

MakeResult = Callable[..., RunResult]


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline of two tasks and 4 servers whose plans are found in a few milliseconds."""
    path = tmp_path_factory.mktemp("pipelines") / "small.yaml"
    path.write_text(PIPELINE, encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def crowd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trace of 4 seconds and 100 requests."""
    path = tmp_path_factory.mktemp("traces") / "crowd.csv"
    path.write_text("t_seconds,requests\n0,10\n1,20\n2,50\n3,20\n", encoding="utf-8")
    return path


@pytest.fixture
def run_options(small: Path, crowd: Path) -> RunOptions:
    return RunOptions(str(small), str(crowd), "exact", interval_s=1.0)


@pytest.fixture(scope="session")
def played(small: Path, crowd: Path) -> dict[Driver, RunResult]:
    """The same run in the twin and on a plane of emulated workers."""
    options = RunOptions(str(small), str(crowd), "exact", interval_s=1.0, seed=3)
    return {"twin": run_twin(options), "emulated": run_plane(replace(options, driver="emulated"))}


@pytest.fixture
def make_result(run_options: RunOptions) -> MakeResult:
    """A result whose requests all arrive in even seconds; ok of ten are in time, one is late, the others are dropped."""

    def make(
        policy: str = "exact",
        driver: Driver = "twin",
        *,
        seed: int = 0,
        ok: int = 8,
        accuracy: float = 0.9,
        seconds: int = 4,
        trace: str = "crowd",
    ) -> RunResult:
        tally = Tally(plans=[PlanRecord(-1.0, PLAN), PlanRecord(1.5, SHED)])
        for second in range(seconds):
            tally.second(second).servers = 3
            for number in range(10 if second % 2 == 0 else 0):
                tally.arrive(second)
                outcome = Outcome.OK if number < ok else Outcome.LATE if number == ok else Outcome.DROPPED
                tally.close(second, outcome, 0.1 + number / 100, accuracy)
        tally.second(1).loads = 2
        options = RunOptions(run_options.pipeline, trace, policy, driver, seed, interval_s=1.0)
        summary = summarise(tally, 1.0, SERVERS)
        return RunResult(
            options=options, trace=trace, summary=summary, tally=tally, servers=SERVERS, best_accuracy=1.0,
            provenance="assumed", duration_s=float(seconds), wall_s=0.5,
        )  # fmt: skip

    return make


PLAN = Plan("hardware", (), 3, 1.0, 1.0, 10.0, 12.0, {"find": 0.5, "read": 1.0}, {})
SHED = Plan("shed", (), 4, 0.5, 0.9, 50.0, 45.0, {"find": 0.5, "read": 1.0}, {})


@pytest.fixture(scope="session")
def ray_hosts() -> Iterator[RayHosts]:
    """A Ray cluster of at least two hosts, for all tests that need one."""
    pytest.importorskip("ray", reason="Ray is not installed; run 'make ray'")
    from tests.ray_hosts import RayHosts

    made = RayHosts()
    yield made
    made.close()


@pytest.fixture
def ray_address(ray_hosts: RayHosts) -> str:
    return ray_hosts.address
