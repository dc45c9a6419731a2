"""What a picture costs in *reading*: processor time by stage, for the best and for the fastest models, beside that of
another checkout where one is named. Only the measuring thread counts, and the two take turns, so that neighbours matter
little."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from statistics import median
from typing import Any

import msgspec

from loki_rl.files.config import load_pipeline
from loki_rl.reading import detection, recognition
from loki_rl.reading.models import font_files
from loki_rl.reading.quality import encoded
from loki_rl.reading.scenes import render
from loki_rl.serving.engines.adapter import Array
from loki_rl.serving.engines.onnx_engine import OnnxEngine

HERE = Path(__file__).resolve().parents[1]
PATHS = {"best": ("d800", "rs240"), "fastest": ("d320", "rt96")}
# Function of a module -> the stage that it is.
STAGES: tuple[tuple[object, str, str], ...] = (
    (detection, "decode", "decode"),
    (detection, "shrunk", "resize"),
    (detection, "normalised", "normalise"),
    (detection, "find_boxes", "boxes"),
    (detection, "cut", "crops"),
    (detection, "pack", "pack"),
    (recognition, "unpack", "unpack"),
    (recognition, "recogniser_input", "line input"),
    (recognition.TextRecognition, "decode", "text"),
    (OnnxEngine, "infer", "session"),
)
SEED = 1
# Most lines of a batch, as profiled.
LARGEST = 16

# Stage -> processor time [us per picture].
Costs = dict[str, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=5, help="processes a checkout, by turns")
    parser.add_argument("--against", type=Path, help="another checkout of this repository")
    parser.add_argument("--once", action="store_true", help="measure in this process and print JSON")
    asked = parser.parse_args()
    if asked.once:
        sys.stdout.buffer.write(msgspec.json.encode({name: measured(*path, asked.pictures) for name, path in PATHS.items()}))
        return
    folders = [HERE, *([asked.against.resolve()] if asked.against else [])]
    runs = [[in_checkout(folder, asked.pictures) for folder in folders] for _ in range(asked.rounds)]
    for name, path in PATHS.items():
        show(f"{name}: {' + '.join(path)}", [middle([turn[place][name] for turn in runs]) for place in range(len(folders))])


def in_checkout(folder: Path, count: int) -> dict[str, Costs]:
    """What this file measures with the package of a checkout, in a process of its own."""
    models = str(load_pipeline("reading", need_profile=False).repository)
    environment = {**os.environ, "PYTHONPATH": str(folder), "LOKI_MODELS": models}
    command = [sys.executable, "-P", __file__, "--once", "--pictures", str(count)]
    done = subprocess.run(command, cwd=folder, env=environment, check=True, stdout=subprocess.PIPE)
    return msgspec.json.decode(done.stdout, type=dict[str, Costs])


def measured(detector: str, recogniser: str, count: int) -> Costs:
    """Costs of finding and reading the lines of `count` pictures, one picture after the other."""
    file = load_pipeline("reading", need_profile=False)
    fonts = font_files(file.repository)
    engine = OnnxEngine(file.models, file.repository, "cpu")
    engine.load("detection", detector)
    engine.load("recognition", recogniser)
    shown = [encoded(render(number, SEED, fonts)) for number in range(count)]
    for picture in shown[:3]:
        read(engine, detector, recogniser, picture)
    costs: Costs = {}
    kept = [timed(owner, name, stage, costs) for owner, name, stage in STAGES]
    begin = time.thread_time()
    for picture in shown:
        read(engine, detector, recogniser, picture)
    total = time.thread_time() - begin
    for restore in kept:
        restore()
    costs |= {"rest": total - sum(costs.values()), "total": total}
    return {stage: 1e6 * spent / count for stage, spent in costs.items()}


def read(engine: OnnxEngine, detector: str, recogniser: str, picture: Array) -> None:
    crops = engine.run("detection", detector, [picture])[0].children[0]
    for first in range(0, len(crops), LARGEST):
        engine.run("recognition", recogniser, crops[first : first + LARGEST])


def timed(owner: Any, name: str, stage: str, costs: Costs) -> Callable[[], None]:
    """Add what a function takes [s] to the costs of its stage; returns what ends that."""
    usual = getattr(owner, name)
    costs[stage] = 0.0

    @wraps(usual)
    def watched(*arguments: Any, **named: Any) -> Any:
        begin = time.thread_time()
        try:
            return usual(*arguments, **named)
        finally:
            costs[stage] += time.thread_time() - begin

    setattr(owner, name, watched)
    return lambda: setattr(owner, name, usual)


def middle(runs: Sequence[Costs]) -> Costs:
    return {stage: median(run[stage] for run in runs) for stage in runs[0]}


def show(title: str, columns: Sequence[Costs]) -> None:
    print(f"{title} [us per picture]{' here, there, ratio' if len(columns) > 1 else ''}")
    for stage in columns[0]:
        figures = [column[stage] for column in columns]
        ratio = f"{figures[0] / figures[1]:8.2f}" if len(figures) > 1 and figures[1] else ""
        print(f"  {stage:12}{''.join(f'{figure:10.0f}' for figure in figures)}{ratio}", flush=True)


if __name__ == "__main__":
    main()
