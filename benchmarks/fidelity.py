"""How far the twin is from a plane: a minute each of many runs, every one beside the twin on the same arrivals, calibrated
to runs with another policy, load and seed. Means over seeds with their intervals; run folders are kept, and what is there
already is not made again.

emulated: *traffic* on 20 emulated workers, steady at shares of what the best models can serve, through a flash crowd, and
through steps that make plans change models. onnx: *reading* on two CPU workers, through the demo's crowd. busy: the same
beside a process that keeps one core busy."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from msgspec import Struct
from msgspec.structs import replace
from rich.console import Console
from rich.table import Table

from benchmarks.parity import trace
from loki_rl.cli import terminal
from loki_rl.control.allocator.allocate import capacity
from loki_rl.demo.host import fit, measure_here
from loki_rl.demo.reading import NOTHING, caution_for
from loki_rl.demo.stage import Stage
from loki_rl.fidelity.comparison import Told, overall, pooled, told
from loki_rl.fidelity.gate import record
from loki_rl.fidelity.measure import Fidelity, measure
from loki_rl.fidelity.twin import calibrated, read_run
from loki_rl.fidelity.verdict import EMULATED, REAL, Bars
from loki_rl.files.config import load_pipeline
from loki_rl.files.profile_file import ProfileFile
from loki_rl.reports.statistics import Interval
from loki_rl.runs.options import RunOptions
from loki_rl.serving.engines.hardware import HostLoad
from loki_rl.traces.demand import Trace
from loki_rl.traces.trace import save_trace

SECONDS = 60
LOADS = "0.5,0.8,1,1.2"
# What the calibration knows of emulated workers: other loads than those that are compared, another policy, and other seeds.
KNOWN_LOADS, KNOWN_POLICY, KNOWN_SEED = (0.4, 0.9), "loki", 1000
# The crowd of emulated workers: before it, and at its height.
BASE, PEAK = 0.6, 1.2
# Every so many seconds demand goes from one share to the other, and plans with it.
STEPS, STEP_S = (0.5, 1.2), 15
BESIDE_NEIGHBOUR = Bars(violations=5.0, overload=5.0)
SHOWN = ("violations", "accuracy", "servers", "p50", "p95", "p99")

TRAFFIC = RunOptions("traffic", "", "exact", "emulated")
READING = RunOptions("reading", "", "exact", "onnx", interval_s=1.0)


class Part(Struct, frozen=True):
    """Runs that differ in their seed alone."""

    name: str
    options: RunOptions


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default="emulated,onnx,busy", help="which, separated by commas")
    parser.add_argument("--policies", default="", help="default: exact,hardware; for real models hardware,loki,exact")
    parser.add_argument("--loads", default=LOADS, help="shares of what the best models can serve, for emulated workers")
    parser.add_argument("--shapes", default="steady,crowd,swap", help="of demand, for emulated workers")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--logdir", type=Path, default=Path("runs/fidelity"))
    options = parser.parse_args()
    rows = []
    for name in options.parts.split(","):
        folder = options.logdir / name
        folder.mkdir(parents=True, exist_ok=True)
        rows += list(PARTS[name](options, folder))
    return 0 if all(rows) else 1


def emulated(asked: argparse.Namespace, folder: Path) -> Iterator[bool]:
    """20 emulated workers."""
    pipeline = load_pipeline("traffic").pipeline
    best = capacity(pipeline, pipeline.servers, min_accuracy=pipeline.best_accuracy).capacity_rps
    known = [
        _steady(folder, load, best, replace(TRAFFIC, policy=KNOWN_POLICY, seed=KNOWN_SEED, interval_s=1.0))
        for load in KNOWN_LOADS
    ]
    demands: dict[str, str] = {}
    if "steady" in asked.shapes:
        demands |= {f"load {load}": _steady(folder, float(load), best, TRAFFIC).trace for load in asked.loads.split(",")}
    if "crowd" in asked.shapes:
        demands["crowd"] = trace(folder / "crowd.csv", "flash_crowd", SECONDS, BASE * best, PEAK / BASE)
    if "swap" in asked.shapes:
        demands["swap"] = _steps(folder / "swap.csv", best)
    for policy in (asked.policies or "exact,hardware").split(","):
        for name, demand in demands.items():
            part = Part(f"{name}, {policy}", replace(TRAFFIC, trace=demand, policy=policy))
            yield _compare(part, asked.seeds, known, EMULATED, folder)


def onnx(asked: argparse.Namespace, folder: Path) -> Iterator[bool]:
    """Two workers with real models."""
    return _reading(asked, folder, REAL)


def busy(asked: argparse.Namespace, folder: Path) -> Iterator[bool]:
    """The same beside a neighbour, to which the twin is calibrated, too."""
    with _neighbour():
        yield from _reading(asked, folder, BESIDE_NEIGHBOUR)


PARTS = {"emulated": emulated, "onnx": onnx, "busy": busy}


def _reading(asked: argparse.Namespace, folder: Path, bars: Bars) -> Iterator[bool]:
    """Through the demo's crowd, with models as they were measured here. What is known is of steady demand and of a ramp from
    before the crowd to its height, with a policy that is not compared."""
    profile = folder / "reading.profile.json"
    stage = Stage(folder, "cpu", print, terminal.progress_bars)
    measured = ProfileFile.load(profile).capacity if profile.is_file() else measure_here(stage, profile)
    assert measured is not None
    run = replace(READING, profile=str(profile), servers=measured.servers)
    found = fit(measured, run.file.pipeline)
    if found is None:
        print(f"{folder.name}: {NOTHING}")
        yield False
        return
    base, height = found.crowd.base_rps, found.crowd.height_rps
    run = replace(run, slo_ms=found.slo_ms, initial_rps=base, caution=caution_for(run.file.pipeline))
    print(f"{folder.name}: a crowd {found.crowd}", flush=True)
    ramps = [trace(folder / f"known{peak:.1f}.csv", "ramp", SECONDS, base, peak) for peak in (1.0, height / base)]
    known = [replace(run, trace=ramp, policy="forecast", seed=KNOWN_SEED + number) for number, ramp in enumerate(ramps)]
    crowd = str(found.crowd.save(folder))
    for policy in (asked.policies or "hardware,loki,exact").split(","):
        part = Part(f"{folder.name}, {policy}", replace(run, trace=crowd, policy=policy))
        yield _compare(part, asked.seeds, known, bars, folder)


def _compare(part: Part, seeds: int, known: Sequence[RunOptions], bars: Bars, folder: Path) -> bool:
    """All seeds of a part, their mean and what is said of it; whether it is within its bars."""
    others = HostLoad()
    like = [record(one, folder) for one in known]
    found = [_beside(replace(part.options, seed=seed), like, folder) for seed in range(1, seeds + 1)]
    rows = told(pooled([one.found for one in found]), bars, any(one.overloaded for one in found))
    _show(part.name, found, rows, others.share())
    return overall(rows) == "within"


def _beside(options: RunOptions, like: Sequence[Path], folder: Path) -> Fidelity:
    run = read_run(record(options, folder))
    return measure(run, calibration=calibrated(like, run))


def _show(name: str, found: Sequence[Fidelity], rows: Sequence[Told], neighbours: float) -> None:
    shown = Table("figure", *(f"seed {one.options.seed}" for one in found), "mean of differences", "bar", "")
    for row in rows:
        if row.name in SHOWN or row.verdict:
            seeds = [next(one.difference for one in each.rows if one.name == row.name) for each in found]
            bar = "" if row.bar is None else f"{row.bar:g}"
            shown.add_row(row.name, *map(_said, seeds), _said(row.difference), bar, row.verdict or "")
    over = " (asked more than the best models can serve)" if any(one.overloaded for one in found) else ""
    print(f"\n{name}{over}: {overall(rows)}; other programs took {neighbours:.0%} of the cores", flush=True)
    Console(width=110, highlight=False).print(shown)


def _said(difference: Interval) -> str:
    return f"{difference.value:+.2f} [{difference.low:+.2f}, {difference.high:+.2f}]"


def _steady(folder: Path, load: float, best: float, options: RunOptions) -> RunOptions:
    return replace(options, trace=trace(folder / f"steady{load:g}.csv", "ramp", SECONDS, load * best, 1.0))


def _steps(path: Path, best: float) -> str:
    """Demand that goes up and down, so that models are changed again and again."""
    seconds = np.arange(SECONDS, dtype=np.float64)
    shares = np.array(STEPS)[(seconds // STEP_S).astype(np.int64) % len(STEPS)]
    counts = np.random.default_rng(0).poisson(shares * best)
    save_trace(Trace("swap", seconds, counts, 1.0, "generated"), path)
    return str(path)


@contextmanager
def _neighbour() -> Iterator[None]:
    """A process that keeps one core busy."""
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as process:
        try:
            yield
        finally:
            process.kill()


if __name__ == "__main__":
    sys.exit(main())
