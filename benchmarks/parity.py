"""Is the twin like a plane of this host? A minute of 20 emulated workers through a crowd, and real models on 2 CPU workers
far from their limit; the twin is calibrated to a shorter run with another seed, made right before. A run whose interval is
wider than a bar, or reaches over it from beyond, tells nothing and is made again; three of these pass for a no."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from msgspec.structs import replace
from rich.console import Console

from loki_rl.control.allocator.allocate import capacity
from loki_rl.fidelity.gate import DISTURBED, Attempt, held, record
from loki_rl.fidelity.measure import Fidelity, measure
from loki_rl.fidelity.report import table
from loki_rl.fidelity.twin import Recorded, calibrated, read_run
from loki_rl.fidelity.verdict import near
from loki_rl.files.config import load_pipeline
from loki_rl.runs.options import RunOptions
from loki_rl.traces.generate import generate
from loki_rl.traces.trace import save_trace

SECONDS, LEARNING_S, LEARNING_REAL_S = 60, 30, 60
# Of what the best models can serve: before the crowd, and at its height.
BASE, PEAK = 0.3, 0.8
# Of real models, whose machine is not known: for what share of what the fastest can serve they are chosen, what is asked to
# learn [1/s], and what share of what the chosen can serve is asked then.
CHOSEN, LEARNING_RPS, REAL = 0.2, 4.0, 0.4
# A deadline that a machine keeps that is some times slower than where the profile was measured [ms].
SLO_MS = 1000.0
# Requests after which a tail of latencies is known well enough, and the longest time that they may take.
REQUESTS, LONGEST_S = 700, 120


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", default="emulated,onnx", help="which, separated by commas")
    parser.add_argument("--repeat", type=int, default=1, help="how often each is asked: how sure the answer is")
    options = parser.parse_args()
    failed = 0
    for name in options.cases.split(","):
        answers = [ask(name, number) for number in range(options.repeat)]
        failed += answers.count(False)
        print(
            f"{name}: plane and twin are {'within their bars' if all(answers) else 'NOT ALIKE'} "
            f"in {answers.count(True)} of {len(answers)}",
            flush=True,
        )
    return 1 if failed else 0


def ask(name: str, number: int) -> bool:
    """Once, with seeds of its own."""
    compare = CASES[name]
    with TemporaryDirectory() as folder:
        return held(lambda attempt: compare(Path(folder), 100 * number + 10 * attempt), partial(tell, name))


def tell(name: str, attempt: Attempt | str) -> None:
    """What one try said."""
    if isinstance(attempt, str):
        print(f"{name}: inconclusive; {attempt}\n", flush=True)
        return
    Console(width=100, highlight=False).print(table(attempt.found))
    blamed = f", more than {DISTURBED:.0%}: no run that is outside counts" if attempt.neighbours > DISTURBED else ""
    print(f"{name}: {attempt.answer}; other programs took {attempt.neighbours:.0%} of the cores{blamed}\n", flush=True)


def emulated(folder: Path, seed: int) -> Fidelity:
    """A crowd that the best models can serve, and a shorter one of another policy to learn from."""
    pipeline = load_pipeline("traffic").pipeline
    best = capacity(pipeline, pipeline.servers, min_accuracy=pipeline.best_accuracy).capacity_rps
    crowd = trace(folder / "crowd.csv", "flash_crowd", SECONDS, BASE * best, PEAK / BASE)
    learning = trace(folder / "ramp.csv", "ramp", LEARNING_S, BASE * best, PEAK / BASE)
    # Whether `exact` takes two servers more hangs on single requests in plane and twin, and a minute has few such moments.
    run = RunOptions("traffic", crowd, "static", "emulated", seed)
    return beside(folder, run, replace(run, trace=learning, policy="exact", seed=seed + 1))


def onnx(folder: Path, seed: int) -> Fidelity:
    """Real models, wherever this machine runs them."""
    return real(RunOptions("reading", "", "static", "onnx"), folder, seed)


def real(options: RunOptions, folder: Path, seed: int) -> Fidelity:
    """Steady demand, as much as this machine was seen to bear well: so many requests in a second that tails are known, and
    so few that nothing hangs on how long a queue happens to be. options: pipeline, policy, device and profile."""
    pipeline = options.file.pipeline
    chosen_rps = CHOSEN * capacity(pipeline, pipeline.servers).capacity_rps
    learning = trace(folder / "learning.csv", "ramp", LEARNING_REAL_S, LEARNING_RPS, 1.0)
    like = replace(options, trace=learning, seed=seed + 1, slo_ms=SLO_MS, demand_rps=chosen_rps)
    rps = REAL * chosen_rps / slowdown(read_run(record(like, folder)))
    seconds = min(LONGEST_S, max(SECONDS, round(REQUESTS / rps)))
    steady = trace(folder / "steady.csv", "ramp", seconds, rps, 1.0)
    return beside(folder, replace(like, trace=steady, seed=seed), like)


CASES: dict[str, Callable[[Path, int], Fidelity]] = {"emulated": emulated, "onnx": onnx}


def beside(folder: Path, run: RunOptions, like: RunOptions) -> Fidelity:
    """A run on a plane and the twin, calibrated to another one."""
    recorded = read_run(record(run, folder))
    return measure(recorded, calibration=calibrated([record(like, folder)], recorded), judge=near)


def trace(path: Path, kind: str, seconds: int, rps: float, peak: float) -> str:
    save_trace(generate(kind, seconds, rps, 0, peak=peak), path)
    return str(path)


def slowdown(run: Recorded) -> float:
    """What batches took here, over what they take as profiled."""
    services, profiled = run.flight.services, run.cluster.pipeline.service_s
    usual = [profiled[task][variant][items] for task, variant, items in services[["task", "variant", "items"]].tolist()]
    return float(np.sum(services["seconds"]) / np.sum(usual))


if __name__ == "__main__":
    sys.exit(main())
