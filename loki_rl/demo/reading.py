"""Part A: real models read pictures on this host, at a rate and within a deadline that fit it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from loki_rl.calibration.fit import CalibrationError, Recording, calibrate, read_recordings
from loki_rl.core.pipeline import Pipeline
from loki_rl.demo.crowd import Crowd
from loki_rl.demo.host import BASE, Fit, fit, measure_here
from loki_rl.demo.pictures import Answer, choose, report
from loki_rl.demo.service import slowdowns, telling
from loki_rl.demo.stage import NEIGHBOURS, PLAIN, PLANNED, Stage, play, play_all
from loki_rl.files.config import load_pipeline
from loki_rl.files.profile_file import Capacity
from loki_rl.reading.workload import RenderedScenes
from loki_rl.reports.phases import phase_of
from loki_rl.runs.options import RunOptions
from loki_rl.runs.recorded.recording import RECORDING
from loki_rl.runs.result import RunResult
from loki_rl.runs.run import PAYLOADS, RUNNERS, prepare, result
from loki_rl.runs.run import play as play_scene
from loki_rl.runs.run_folder import folder_of
from loki_rl.runs.tensorboard.curves import whole_seconds
from loki_rl.serving.profiling.as_served import DOUBTFUL

POLICIES = (PLAIN, PLANNED)
# Models that load faster than this [s] need no room for what was never seen: the next plan has them soon enough.
QUICK_S = 2.5
NOTHING = (
    "On this host the fastest models do too little more in time than the most accurate ones, so a crowd that only cheaper "
    "models can serve cannot be shown."
)
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
    return PartA(None, []) if found is None else _play(stage, found, measured.servers, path)


def _play(stage: Stage, found: Fit, servers: int, profile: Path) -> PartA:
    folder = stage.folder / "reading"
    options = RunOptions(
        "reading", str(found.crowd.save(folder)), PLAIN, "onnx", servers=servers, interval_s=INTERVAL_S,
        slo_ms=found.slo_ms, initial_rps=found.crowd.base_rps, device=stage.device, profile=str(profile),
    )  # fmt: skip
    pipeline = options.file.pipeline
    options = replace(options, caution=caution_for(pipeline))
    watch = Watch(options)
    results = play_all(stage, options, POLICIES, "onnx", watch.run, folder)
    for line in verdict(results, found.crowd):
        stage.show(line)
    _beside(stage, options, folder, found.crowd)
    best = " + ".join(max(task.variants, key=lambda one: one.accuracy).name for task in pipeline.tasks)
    pair = choose(watch.answers, watch.scenes, found.crowd)
    for line in report(pair, watch.scenes, best, stage.folder / "reading.png"):
        stage.show(line)
    return PartA(found.crowd, results)


def caution_for(pipeline: Pipeline) -> float:
    """How much room the planned policy keeps for crowds that were never seen here."""
    return 0.0 if load_s(pipeline) < QUICK_S else 1.0


def load_s(pipeline: Pipeline) -> float:
    """Longest time to load a model [s]."""
    return max(variant.load_s for task in pipeline.tasks for variant in task.variants)


# -- in words ---------------------------------------------------------------------------------------------------------


def told(measured: Capacity, pipeline: Pipeline, found: Fit | None) -> list[str]:
    """What was measured, what is played, and why that."""
    rates = (
        f"Measured here: {measured.most_accurate_rps:.1f} pictures/s with the most accurate models, "
        f"{measured.cheapest_rps:.1f} with the fastest, with no deadline."
    )
    played = [NOTHING] if found is None else _played(measured, pipeline, found)
    return [rates, *_neighbours(measured.neighbours), *played]


def _neighbours(share: float) -> list[str]:
    if share > DOUBTFUL:
        return [
            f"Other programs took {share:.0%} of the cores even in the quietest measurement, so neither these figures nor "
            "those below tell what this host can do; run the demo again when it is quiet."
        ]
    if share > NEIGHBOURS:
        return [f"Other programs took {share:.0%} of the cores meanwhile; stop them for steady figures."]
    return []


def _played(measured: Capacity, pipeline: Pipeline, found: Fit) -> list[str]:
    usual_ms, top_rps = 1000 * pipeline.slo_s, found.crowd.height_rps
    slow = f"{usual_ms:.0f} ms are too short for the most accurate models here; the deadline is {found.slo_ms or 0:.0f} ms."
    quick = (
        f"Any model loads within {load_s(pipeline):.2f} s, so '{PLANNED}' keeps no room for crowds that it has never seen "
        "(--caution 0)."
    )
    return [
        *([slow] if found.slo_ms else []),
        f"In time: {found.best_rps:.1f} pictures/s with the most accurate models, {found.fastest_rps:.1f} with the fastest. "
        f"A crowd {found.crowd}:",
        f"  {BASE:g} x what the most accurate can do, then {top_rps / measured.most_accurate_rps:.1f} x what they complete, "
        f"which is {top_rps / found.fastest_rps:.2f} x what the fastest can do.",
        *([] if caution_for(pipeline) else [quick]),
    ]


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
    """Runs planes, and keeps what they answered about pictures."""

    def __init__(self, options: RunOptions) -> None:
        self._workload = RenderedScenes(options.file, PAYLOADS, options.seed)
        self.scenes = self._workload.scenes
        self.answers: list[Answer] = []

    def run(self, options: RunOptions, folder: Path | None) -> RunResult:
        scene = prepare(options)
        sent = self._workload.payloads(scene.file.tree[0])
        keep = range(len(sent)) if options.policy == PLANNED else ()
        seen = play_scene(scene, sent, folder, keep)
        self.answers += [
            Answer(number % len(sent), float(scene.times[number]), answer) for number, answer in seen.kept.items()
        ]
        return result(scene, seen.figures, seen.tally, seen.wall_s)


def _beside(stage: Stage, options: RunOptions, folder: Path, crowd: Crowd) -> None:
    """Where the planes that recorded in this folder were not as profiled, say so, and play the twin as they were."""
    runs = (folder_of(replace(options, policy=policy), folder) for policy in POLICIES)
    recordings = read_recordings([run / RECORDING for run in runs])
    found = slowdowns(options.file.pipeline, recordings)
    if telling(found):
        words = ", ".join(f"{task} {ratio:.2f}" for task, ratio in found.items())
        stage.show(f"Batches took other times than profiled (measured over profiled: {words}), so plane and twin differ.")
        stage.show(_calibrated(stage, options, recordings, crowd))


def _calibrated(stage: Stage, options: RunOptions, recordings: Sequence[Recording], crowd: Crowd) -> str:
    """What the twin says with what the planes recorded, or why it cannot be asked."""
    path = stage.folder / "reading.calibration.json"
    try:
        calibrate(recordings, "loki-rl demo").save(path)
    except CalibrationError as error:
        return f"The twin cannot be given these times: {error}."
    again = replace(options, calibration=str(path))
    results = play(stage, again, POLICIES, {"twin": RUNNERS["twin"]}, stage.folder / "reading-calibrated")
    return f"With the times of the planes, {verdict(results, crowd)[0]}"
