"""Part A: real models read pictures on this host, at a rate and within a deadline that fit it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from loki_rl.core.pipeline import Pipeline
from loki_rl.demo.crowd import Crowd
from loki_rl.demo.host import ABOVE_BEST, BASE, BELOW_FASTEST, TOO_MANY, Fit, fit, measure_here
from loki_rl.demo.pictures import Answer, choose, report
from loki_rl.demo.service import Service, as_served, service
from loki_rl.demo.stage import NEIGHBOURS, PLAIN, PLANNED, Stage, play, play_all
from loki_rl.files.config import load_pipeline
from loki_rl.files.profile_file import Capacity
from loki_rl.reading.workload import RenderedScenes
from loki_rl.reports.phases import phase_of
from loki_rl.runs.curves import whole_seconds
from loki_rl.runs.options import RunOptions
from loki_rl.runs.result import RunResult
from loki_rl.runs.run import PAYLOADS, RUNNERS, prepare, result
from loki_rl.runs.run import play as play_scene
from loki_rl.serving.gateway.client import Client
from loki_rl.serving.state import PlaneState

POLICIES = (PLAIN, PLANNED)
# Models that load within a tenth of a second need little room for what was never seen: the next plan has it soon enough.
CAUTION = 0.1
INTERVAL_S = 1.0


class PartA(Struct):
    """What was played. results: of all policies, twin and plane; none where this host could show nothing."""

    crowd: Crowd | None
    results: list[RunResult]


def reading(stage: Stage) -> PartA:
    """Profile the models as they are served here, then play the crowd that fits what was measured. Raises DemoError."""
    path = stage.folder / "reading.profile.json"
    measured = measure_here(stage, path)
    pipeline = load_pipeline("reading", profile=path).pipeline
    found = fit(measured, pipeline)
    for line in told(measured, pipeline, found):
        stage.show(line)
    if found is None:
        return PartA(None, [])
    options = RunOptions(
        "reading", str(found.crowd.save(stage.folder)), PLAIN, "onnx", servers=measured.servers, interval_s=INTERVAL_S,
        slo_ms=found.slo_ms, initial_rps=found.crowd.base_rps, caution=CAUTION, device=stage.device, profile=str(path),
    )  # fmt: skip
    watch = Watch(options, found.crowd)
    results = play_all(stage, options, POLICIES, "onnx", watch.run, stage.folder / "reading")
    for line in verdict(results, found.crowd):
        stage.show(line)
    _beside(stage, options, watch, found.crowd)
    best = " + ".join(max(task.variants, key=lambda one: one.accuracy).name for task in pipeline.tasks)
    pair = choose(watch.answers, watch.scenes, found.crowd)
    for line in report(pair, watch.scenes, best, stage.folder / "reading.png"):
        stage.show(line)
    return PartA(found.crowd, results)


# -- in words ---------------------------------------------------------------------------------------------------------


def told(measured: Capacity, pipeline: Pipeline, found: Fit | None) -> list[str]:
    """What was measured, what is played, and why that."""
    lines = [
        f"Measured here: {measured.most_accurate_rps:.1f} pictures/s with the most accurate models, "
        f"{measured.cheapest_rps:.1f} with the fastest, with no deadline."
    ]
    if measured.neighbours > TOO_MANY:
        lines.append(
            f"Other programs took {measured.neighbours:.0%} of the cores meanwhile and made no pause, so neither these "
            "figures nor those below tell what this host can do; run the demo again when it is quiet."
        )
    elif measured.neighbours > NEIGHBOURS:
        lines.append(f"Other programs took {measured.neighbours:.0%} of the cores meanwhile; stop them for steady figures.")
    if found is None:
        lines.append(
            "On this host the fastest models do too little more in time than the most accurate ones, so a crowd that only "
            "cheaper models can serve cannot be shown."
        )
        return lines
    if found.slo_ms:
        lines.append(
            f"{1000 * pipeline.slo_s:.0f} ms are too short for the most accurate models here; the deadline is "
            f"{found.slo_ms:.0f} ms."
        )
    lines += [
        f"In time: {found.best_rps:.1f} pictures/s with the most accurate models, {found.fastest_rps:.1f} with the fastest. "
        f"A crowd {found.crowd}:",
        f"  {BASE:g} x what the most accurate can do, then up to {ABOVE_BEST:g} x what they complete, and at most "
        f"{BELOW_FASTEST:g} x what the fastest can do.",
    ]
    return lines


def verdict(results: Sequence[RunResult], crowd: Crowd) -> list[str]:
    """A line for each driver: what exact planning saved and what accuracy it paid when."""
    lines = []
    for driver in dict.fromkeys(done.options.driver for done in results):
        plain, planned = (_of(results, driver, policy) for policy in POLICIES)
        calm = accuracy(planned, 0, crowd.calm_s)
        height = accuracy(planned, crowd.height_from_s, crowd.height_to_s)
        lines.append(
            f"{driver}: '{PLAIN}' missed {plain.summary.slo_violation_ratio:.1%} of the deadlines, '{PLANNED}' "
            f"{planned.summary.slo_violation_ratio:.1%}, at accuracy {calm:.1%} before the crowd and {height:.1%} at its "
            f"height (best models: {planned.best_accuracy:.1%})."
        )
    return lines


def _of(results: Sequence[RunResult], driver: str, policy: str) -> RunResult:
    return next(done for done in results if (done.options.driver, done.options.policy) == (driver, policy))


def accuracy(done: RunResult, begin_s: int, end_s: int) -> float:
    """Of what arrived in these seconds and was served in time, 0..1; 0 where nothing was."""
    return phase_of(whole_seconds(done.tally, done.duration_s), begin_s, end_s, "all servers").accuracy or 0.0


# -- plane ------------------------------------------------------------------------------------------------------------


class Watch:
    """Runs planes, and keeps what they answered about pictures and what their batches took."""

    def __init__(self, options: RunOptions, crowd: Crowd) -> None:
        self._workload = RenderedScenes(options.file, PAYLOADS, options.seed)
        self._crowd = crowd
        self.scenes = self._workload.scenes
        self.answers: list[Answer] = []
        self.states: list[PlaneState] = []

    def run(self, options: RunOptions, folder: Path | None) -> RunResult:
        scene = prepare(options)
        sent = self._workload.payloads(scene.file.tree[0])
        keep = range(len(sent)) if options.policy == PLANNED else ()
        seen = play_scene(scene, sent, folder, keep, self._look)
        self.answers += [
            Answer(number % len(sent), float(scene.times[number]), answer) for number, answer in seen.kept.items()
        ]
        return result(scene, seen.figures, seen.tally, seen.wall_s)

    def _look(self, front: str) -> None:
        with Client(front) as client:
            self.states.append(client.state())


def _beside(stage: Stage, options: RunOptions, watch: Watch, crowd: Crowd) -> None:
    """Where the planes were not as profiled, say so, and play the twin as they were."""
    found = service(options.file.pipeline, watch.states)
    if found.telling:
        stage.show(
            f"Batches did not take what the profile says (measured over profiled: {found}), so plane and twin differ."
        )
        for line in _twin_as_served(stage, options, found, crowd):
            stage.show(line)


def _twin_as_served(stage: Stage, options: RunOptions, found: Service, crowd: Crowd) -> list[str]:
    """What the twin says with the times that the planes had."""
    old, path = options.file.measured, stage.folder / "reading-as-served.profile.json"
    assert old is not None
    as_served(old, found).save(path)
    again = replace(options, profile=str(path))
    results = play(stage, again, POLICIES, {"twin": RUNNERS["twin"]}, stage.folder / "reading-as-served")
    return [f"With the times that the planes had, {line}" for line in verdict(results, crowd)]
