"""How long a comparison takes: 5 policies on 4 traces of 20 minutes with 3 seeds, *traffic*, 20 servers, as `compare` runs
it, report and all. Wall time, and CPU time of its processes over the cores: the wall time where nothing else runs."""

from __future__ import annotations

import argparse
from pathlib import Path
from resource import RUSAGE_CHILDREN, RUSAGE_SELF, getrusage
from tempfile import TemporaryDirectory
from time import perf_counter

from loki_rl.reports.compare import build_cases, compare
from loki_rl.runs.options import RunOptions
from loki_rl.runs.run import RUNNERS
from loki_rl.runs.spreading import cores
from loki_rl.traces.generate import generate
from loki_rl.traces.trace import save_trace

POLICIES = ("static", "hardware", "proteus", "loki", "exact")
KINDS = ("diurnal", "flash_crowd", "bursts", "mmpp")
MINUTES, SEEDS, SECONDS_LIMIT, CORES_LIMIT = 20, 3, 600.0, 2
# About half of what the most accurate models can serve: the peaks reach far into accuracy scaling.
MEAN_RPS = 100.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=SEEDS, help="fewer take less time; the estimate is for all")
    parser.add_argument("--mean-rps", type=float, default=MEAN_RPS)
    parser.add_argument("--jobs", type=int, default=min(cores(), CORES_LIMIT))
    given = parser.parse_args()
    with TemporaryDirectory() as folder:
        wall_s, cpu_s, runs = measure(Path(folder), given.seeds, given.mean_rps, given.jobs)
    whole = len(POLICIES) * len(KINDS) * SEEDS
    estimate = cpu_s / runs * whole / CORES_LIMIT
    print(
        f"{runs} runs of {MINUTES} minutes at {given.mean_rps:g} requests/s in {given.jobs} processes: {wall_s:.0f} s, "
        f"{cpu_s:.0f} s of CPU"
    )
    print(f"{whole} runs on {CORES_LIMIT} cores of their own: {estimate:.0f} s; limit {SECONDS_LIMIT:g} s")


def measure(folder: Path, seeds: int, mean_rps: float, jobs: int) -> tuple[float, float, int]:
    """Wall time and CPU time [s] of a whole comparison, and its number of runs."""
    traces = [write(folder, kind) for kind in KINDS]
    options = RunOptions("traffic", traces[0], POLICIES[0], servers=20, mean_rps=mean_rps)
    cases = build_cases(options, policies=POLICIES, traces=traces, seeds=range(seeds))
    began, spent = perf_counter(), cpu_s()
    found = compare(cases, RUNNERS, folder / "runs", jobs)
    assert not found.failures, str(found.failures[0])
    return perf_counter() - began, cpu_s() - spent, len(found.results)


def write(folder: Path, kind: str) -> str:
    path = folder / f"{kind}.csv"
    save_trace(generate(kind, 60 * MINUTES, 20.0, 0), path)
    return str(path)


def cpu_s() -> float:
    """CPU time of this process and of those that it has waited for [s]."""
    used = (getrusage(RUSAGE_SELF), getrusage(RUSAGE_CHILDREN))
    return sum(one.ru_utime + one.ru_stime for one in used)


if __name__ == "__main__":
    main()
