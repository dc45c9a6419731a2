"""The main job, end to end, on this machine: real models and emulated servers meet a flash crowd, in plane and twin. Owns
what is shown and at which rates; every figure comes from the runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

from msgspec import Struct
from rich.console import RenderableType

from loki_rl.cli import terminal
from loki_rl.cli.flags import Json, writable
from loki_rl.control.allocator.allocate import capacity
from loki_rl.errors import UserError
from loki_rl.files.config import load_pipeline
from loki_rl.files.profile_file import Capacity
from loki_rl.options import Help
from loki_rl.reading.drawing import Sight, draw, sight
from loki_rl.reading.models import fetch_reading
from loki_rl.reports.compare import build_cases, compare
from loki_rl.reports.report import table
from loki_rl.reports.summary import averages
from loki_rl.runs.batch_runner import Progress as Case
from loki_rl.runs.batch_runner import Runner
from loki_rl.runs.options import Device, Driver, RunOptions
from loki_rl.runs.result import RunResult, row
from loki_rl.runs.run import RUNNERS, payloads, play, prepare, result
from loki_rl.serving.profiling.as_served import rescale
from loki_rl.serving.profiling.profile import profile, quick_request
from loki_rl.traces.generate import PEAK, generate
from loki_rl.traces.trace import save_trace

POLICIES = ("hardware", "exact")
INTERVAL_S = 1.0
# The part of the flash crowd that is played: 10 s before it, 30 s of rise, 18 s held; and what its file has before it.
FROM_S, TO_S, RISE_S, HELD_S = 50.0, 108.0, 60.0, 90.0
FILE_RPS = 10.0
TRACE_SECONDS, TRACE_SEED = 180, 7
# Share of the measured capacity: of the most accurate models before the crowd, of the fastest ones at its peak.
BASE_SHARE, PEAK_SHARE = 0.6, 0.9
# Share of the cores that other programs may take before the figures need a warning.
NEIGHBOURS = 0.1
# Eight lines of different length: the fast recognisers misread the long ones.
PICTURE = 38


class DemoError(UserError):
    """The demo cannot go on; the message says why and what to do."""


class Stage(Struct):
    """Where the demo writes and how it speaks. show: a line or a table for people."""

    folder: Path
    device: str
    show: Callable[[RenderableType], None]


def demo(
    folder: Annotated[Path, Help("Where to write.")] = Path("demo"), device: Device = "auto", as_json: Json = False
) -> None:
    """The main job: real models and 20 emulated workers meet a flash crowd, in plane and twin."""
    writable(folder)
    stage = Stage(folder, device, partial(terminal.shown, stderr=as_json))
    stage.show("[bold]Part A: reading.[/] Real models find and read text in pictures; 2 ONNX workers.")
    read = reading(stage)
    stage.show("\n[bold]Part B: traffic.[/] 20 emulated workers with published service times.")
    seen = traffic(stage)
    stage.show(f"\nCurves of all runs, plane over twin: tensorboard --logdir {folder}")
    terminal.say({"results": [row(done) for done in read + seen]}, as_json, lambda: None)


# -- part A -----------------------------------------------------------------------------------------------------------


def reading(stage: Stage) -> list[RunResult]:
    """Profile the models as they are served here, then play the flash crowd that fits what was measured."""
    path = stage.folder / "reading.profile.json"
    measured = profile_here(stage, path)
    base, peak = rates(measured)
    stage.show(
        f"Measured here: {measured.most_accurate_rps:.1f} pictures/s with the most accurate models, "
        f"{measured.cheapest_rps:.1f} with the fastest. "
        f"Flash crowd from {base:.1f} to {peak * base:.1f} pictures/s (x{peak:.1f})."
    )
    if measured.neighbours > NEIGHBOURS:
        stage.show(f"Other programs took {measured.neighbours:.0%} of the cores meanwhile; stop them for steady figures.")
    options = RunOptions(
        "reading", _trace(stage, peak), POLICIES[0], "onnx", servers=measured.servers, interval_s=INTERVAL_S,
        rate_scale=base / FILE_RPS, from_s=FROM_S, to_s=TO_S, device=stage.device, profile=str(path),
    )  # fmt: skip
    watch = _Watch()
    results = _play(stage, options, "onnx", watch.run)
    stage.show(watch.report(stage.folder / "reading.png"))
    return results


def profile_here(stage: Stage, path: Path) -> Capacity:
    """Fetch the models, measure their times alone and then as served; accuracies do not depend on the device."""
    file = load_pipeline("reading")
    assert file.measured is not None
    with terminal.progress_bars() as progress:
        fetch_reading(file.repository, progress)
        profile(file, quick_request(file, file.measured, stage.device), progress).save(path)
        served = rescale(file.path, path, stage.device, progress)
    served.save(path)
    assert served.capacity is not None
    return served.capacity


def rates(measured: Capacity) -> tuple[float, float]:
    """Base rate [requests/s] and how many times as high the peak is."""
    base = BASE_SHARE * measured.most_accurate_rps
    return base, min(PEAK, PEAK_SHARE * measured.cheapest_rps / base)


def _trace(stage: Stage, peak: float) -> str:
    """The shipped flash crowd, or a lower one if the fastest models could not serve its peak."""
    if peak == PEAK:
        return "flash_crowd"
    path = stage.folder / "flash_crowd_low.csv"
    save_trace(generate("flash_crowd", TRACE_SECONDS, FILE_RPS, TRACE_SEED, peak=peak), path)
    return str(path)


class _Watch:
    """Runs the plane and keeps what it answered about one picture before the crowd and at its height."""

    def __init__(self) -> None:
        self.sights: dict[str, tuple[Sight, Sight]] = {}
        self.jpeg = b""

    def run(self, options: RunOptions, folder: Path | None) -> RunResult:
        scene = prepare(options)
        sent = payloads(scene)
        seen = play(scene, sent, folder, keep=PICTURE)
        self.jpeg = sent[PICTURE].tobytes()
        answers = [(scene.times[number], answer) for number, answer in seen.kept.items()]
        early = [answer for time, answer in answers if time < RISE_S - FROM_S]
        late = [answer for time, answer in answers if time > HELD_S - FROM_S]
        if early and late:
            self.sights[options.policy] = (sight(early[0]), sight(late[-1]))
        return result(scene, seen.figures, seen.tally, seen.wall_s)

    def report(self, path: Path) -> str:
        if POLICIES[-1] not in self.sights:
            return "The picture to show was not answered in time both before the crowd and at its height."
        before, at_peak = self.sights[POLICIES[-1]]
        draw(self.jpeg, [("before the crowd", before), ("at its height", at_peak)], path)
        lines = [f"One picture ({path}), read by '{POLICIES[-1]}'"]
        for when, one in (("before the crowd", before), ("at its height", at_peak)):
            lines.append(f"  {when}, {one.models}: {', '.join(repr(reading.text) for reading in one.readings) or 'nothing'}")
        return "\n".join(lines)


# -- part B -----------------------------------------------------------------------------------------------------------


def traffic(stage: Stage) -> list[RunResult]:
    """The phases of scaling on a cluster: first more servers, then cheaper models."""
    pipeline = load_pipeline("traffic").pipeline
    most = capacity(pipeline, pipeline.servers, min_accuracy=pipeline.best_accuracy).capacity_rps
    base = BASE_SHARE * most
    stage.show(
        f"Planned: {most:.0f} requests/s with the most accurate models. "
        f"Flash crowd from {base:.0f} to {PEAK * base:.0f} requests/s (x{PEAK:.1f})."
    )
    options = RunOptions(
        "traffic", "flash_crowd", POLICIES[0], "emulated", servers=pipeline.servers, interval_s=INTERVAL_S,
        rate_scale=base / FILE_RPS, from_s=FROM_S, to_s=TO_S,
    )  # fmt: skip
    return _play(stage, options, "emulated", RUNNERS["emulated"])


# -- both -------------------------------------------------------------------------------------------------------------


def _play(stage: Stage, options: RunOptions, plane: Driver, run: Runner) -> list[RunResult]:
    """Every policy in plane and twin, a table of them, and how far apart they are."""
    cases = build_cases(options, policies=POLICIES, traces=[options.trace], seeds=[0], drivers=("twin", plane))
    folder = stage.folder / options.pipeline

    with terminal.progress_bars() as progress:

        def tell(case: Case) -> None:
            what = f"{case.options.policy} ({case.options.driver})"
            progress(what, 0.0 if case.state == "started" else 1.0)

        done = compare(cases, {**RUNNERS, plane: run}, folder, progress=tell, fresh=True)
    if done.failures:
        raise DemoError("; ".join(map(str, done.failures)))
    stage.show(table(done.results))
    for line in verdict(done.results):
        stage.show(line)
    stage.show(f"Demand, servers and accuracy over time: {done.report.parent / f'timeline-{done.results[0].trace}.png'}")
    return done.results


def verdict(results: Sequence[RunResult]) -> list[str]:
    """Per driver, in words: what exact planning saved and what accuracy it paid."""
    rows = {(row.driver, row.policy): row for row in averages(results)}
    lines = []
    for driver in dict.fromkeys(driver for driver, _ in rows):
        plain, planned = (rows[driver, policy] for policy in POLICIES)
        lines.append(
            f"{driver}: '{POLICIES[0]}' missed {plain.slo_violation_ratio:.1%} of the deadlines, "
            f"'{POLICIES[1]}' {planned.slo_violation_ratio:.1%} "
            f"at accuracy {planned.accuracy:.1%} (best models: {results[0].best_accuracy:.1%})."
        )
    return lines
