"""Whether the demo's first part convinces on this host: accuracy before the crowd, and deadlines missed, run after run.

From the repository's root: python -m benchmarks.demo [--runs 3] [--neighbour 0.5] [--folder runs/demo]

--neighbour: share of a core that another process takes all the while, in slices of a tenth of a second.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from msgspec import Struct

from loki_rl.cli import terminal
from loki_rl.demo.reading import PartA, accuracy, reading
from loki_rl.demo.stage import PLAIN, PLANNED, Stage
from loki_rl.runs.result import RunResult

BUSY = """
import sys, time
share = float(sys.argv[1])
while True:
    end = time.monotonic() + 0.1 * share
    while time.monotonic() < end:
        pass
    time.sleep(0.1 * (1 - share))
"""
HEAD = "run  base/s height/s  SLO ms   best  before  points   exact  hardware"


class Figures(Struct, frozen=True):
    """Of the plane. before: accuracy of the planned policy before the crowd, best: of the most accurate models, 0..1;
    planned, plain: share of the deadlines that either policy missed."""

    best: float
    before: float
    planned: float
    plain: float


@contextmanager
def neighbour(share: float) -> Iterator[None]:
    """Another process that takes this share of a core; none if it is 0."""
    other = subprocess.Popen([sys.executable, "-c", BUSY, str(share)]) if share else None
    try:
        yield
    finally:
        if other is not None:
            other.kill()
            other.wait()


def figures(part: PartA) -> Figures:
    """What one demo showed. Exits where the host could show nothing."""
    if part.crowd is None:
        sys.exit("this host could show nothing")
    plane: dict[str, RunResult] = {done.options.policy: done for done in part.results if done.options.driver == "onnx"}
    return Figures(
        plane[PLANNED].best_accuracy,
        accuracy(plane[PLANNED], 0, part.crowd.calm_s),
        plane[PLANNED].summary.slo_violation_ratio,
        plane[PLAIN].summary.slo_violation_ratio,
    )


def row(number: int, part: PartA) -> str:
    """The line of one run under HEAD."""
    one, crowd = figures(part), part.crowd
    assert crowd is not None
    slo_ms = 1000 * part.results[0].options.file.pipeline.slo_s
    return (
        f"{number:>3} {crowd.base_rps:>7.2f} {crowd.height_rps:>8.2f} {slo_ms:>7.0f} {one.best:>6.1%} {one.before:>7.1%} "
        f"{100 * (one.best - one.before):>7.2f} {one.planned:>7.2%} {one.plain:>9.2%}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--neighbour", type=float, default=0.0, help="share of a core, 0 to 1")
    parser.add_argument("--folder", type=Path, default=Path("runs/demo"))
    parser.add_argument("--device", default="auto")
    args = parser.parse_args()
    rows = []
    with neighbour(args.neighbour):
        for number in range(args.runs):
            stage = Stage(
                args.folder / str(number), args.device, partial(terminal.shown, stderr=True), terminal.progress_bars
            )
            rows.append(row(number, reading(stage)))
            print(f"{HEAD}\n{rows[-1]}", flush=True)
    print(f"\n{args.runs} runs beside {args.neighbour:g} of a core:\n{HEAD}", *rows, sep="\n")


if __name__ == "__main__":
    main()
