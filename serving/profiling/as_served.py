"""The profile of a pipeline as it is served: a whole plane on this host works at its limit, and what its workers then need
replaces what was measured in isolation."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import cycle
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
from msgspec.structs import replace

from loki_rl.control.allocator.allocate import capacity
from loki_rl.core.options import ClusterOptions
from loki_rl.core.pipeline import Pipeline, Task
from loki_rl.core.plan import Drift, Plan, Snapshot
from loki_rl.files.config import PipelineFile, load_pipeline
from loki_rl.files.profile_file import ProfileFile
from loki_rl.serving.engines.engine import EngineError
from loki_rl.serving.engines.hardware import HostLoad
from loki_rl.serving.gateway.client import Client, Inference, pack_payload
from loki_rl.serving.process.launch import LocalPlane
from loki_rl.serving.profiling.rescale import Round, Span, rescaled
from loki_rl.serving.profiling.worker_log import read_workers
from loki_rl.serving.profiling.workload import Progress, entry_payloads

# Requests in flight per server: enough that no worker of any round waits for work.
IN_FLIGHT = 12
ROUND_S = 4.0
PAYLOADS, SEED = 60, 2
# A plane at its limit answers late; here nothing may be dropped for that, nor given to a second worker.
PATIENCE_S = 60.0
LEASE = 1000.0
# Beside others that take more of the cores than this, or with models whose p95 is so many times their median, a host is
# measured again, so often in all.
QUIET, SPREAD, TRIES = 0.1, 3.0, 3
# Beside others that take more than this, figures say more about them than about the models.
DOUBTFUL = 0.4


class Rounds:
    """A policy: one plan after the other, a control interval each; the last one stays. That batches take other times than in
    the profile is what is measured here: who asks within an interval because of it is given the same plan."""

    def __init__(self, plans: Sequence[Plan]) -> None:
        self._left = iter(plans)
        self._plan: Plan | None = None
        self._drift: tuple[Drift, ...] = ()

    def decide(self, snapshot: Snapshot) -> Plan:
        if self._plan is None or snapshot.drift == self._drift:
            self._plan = next(self._left, self._plan)
        self._drift = snapshot.drift
        assert self._plan is not None
        return self._plan


def rounds_policy(_name: str, _cluster: ClusterOptions, options: dict[str, Any]) -> Rounds:
    """The factory that the plane's file names. options: {"plans": [...]}."""
    return Rounds(msgspec.convert(options["plans"], list[Plan]))


def rescale(pipeline_path: Path, profile_path: Path, device: str, progress: Progress) -> ProfileFile:
    """The profile with service times, load times and capacity as they are while a plane with the pipeline's servers works
    at its limit. While other programs are busy it is measured again; the quietest measurement counts. Raises ConfigError,
    EngineError or LaunchError."""
    file = load_pipeline(pipeline_path, profile=profile_path)
    rounds = make_rounds(file.pipeline)
    return quietest(lambda: _rescaled_once(file, rounds, device, progress))


def quietest(measure: Callable[[], ProfileFile]) -> ProfileFile:
    """What is measured while others leave the cores alone; the best of TRIES if they never do."""
    made: list[ProfileFile] = []
    while len(made) < TRIES:
        made.append(measure())
        if neighbours_of(made[-1]) <= QUIET and _spread(made[-1]) <= SPREAD:
            break
    return min(made, key=lambda one: (neighbours_of(one), _spread(one)))


def neighbours_of(profile: ProfileFile) -> float:
    """Share of all cores that other programs took while it was measured as served, 0..1."""
    return 0.0 if profile.capacity is None else profile.capacity.neighbours


def doubt(profile: ProfileFile) -> str:
    """Why the figures of a profile as served are not to be relied on, in one sentence; empty if nothing says so."""
    share = neighbours_of(profile)
    if share <= DOUBTFUL:
        return ""
    return (
        f"Other programs took {share:.0%} of the cores in the quietest of {TRIES} measurements: the figures are doubtful; "
        "stop them and measure again."
    )


def _rescaled_once(file: PipelineFile, rounds: Sequence[Round], device: str, progress: Progress) -> ProfileFile:
    neighbours = HostLoad()
    with TemporaryDirectory() as folder:
        spans = serve_rounds(file, rounds, device, Path(folder), progress)
        share = neighbours.share()
        log = read_workers(Path(folder))
    return rescaled(file, rounds, spans, log, share)


def _spread(profile: ProfileFile) -> float:
    """The widest p95 of a batch over its median."""
    return max(row.p95_ms / row.p50_ms for row in profile.variants)


def make_rounds(pipeline: Pipeline) -> list[Round]:
    """From the most accurate variants to the fastest; every variant has a round."""
    choices = [_by_accuracy(task) for task in pipeline.tasks]
    count = max(map(len, choices))
    return [_round(pipeline, [of_task[k * len(of_task) // count] for of_task in choices]) for k in range(count)]


def _by_accuracy(task: Task) -> list[int]:
    return sorted(range(len(task.variants)), key=lambda number: -task.variants[number].accuracy)


def _round(pipeline: Pipeline, picked: Sequence[int]) -> Round:
    """The plan of most requests per second with these variants alone."""
    alone = _alone(pipeline, picked)
    plan = capacity(alone, pipeline.servers)
    if plan.mode == "infeasible":  # too slow for the SLO: how slow is still worth knowing
        plan = capacity(replace(alone, slo_s=PATIENCE_S), pipeline.servers)
    if plan.mode == "infeasible":
        raise EngineError(f"'{pipeline.name}' cannot be measured as served: {'; '.join(plan.reasons)}")
    per_request = [task.entry for task in alone.tasks]
    for position, children in enumerate(alone.children):
        for child, mean in zip(children, alone.fanouts[position][0], strict=True):
            per_request[child] = per_request[position] * mean
    return Round(plan, tuple(picked), tuple(per_request))


def _alone(pipeline: Pipeline, picked: Sequence[int]) -> Pipeline:
    """The pipeline with one variant per task."""
    tasks = tuple(replace(task, variants=(task.variants[pick],)) for task, pick in zip(pipeline.tasks, picked, strict=True))
    names = {task.variants[0].name for task in tasks}
    paths = {path: accuracy for path, accuracy in pipeline.path_accuracy.items() if names.issuperset(path)}
    return replace(pipeline, tasks=tasks, path_accuracy=paths)


# -- load -----------------------------------------------------------------------------------------------------------------


def serve_rounds(
    file: PipelineFile, rounds: Sequence[Round], device: str, journal: Path, progress: Progress, round_s: float = ROUND_S
) -> list[Span]:
    """Serve the rounds on a plane that always has enough to do, and leave its journals; returns when each round began and
    ended, on the journals' clock."""
    pipeline = replace(file.pipeline, slo_s=PATIENCE_S)
    payloads = cycle([pack_payload(payload) for payload in entry_payloads(file, PAYLOADS, SEED, device)])
    # The models of a round are loaded within it.
    round_s += max(variant.load_s for task in pipeline.tasks for variant in task.variants)
    with (
        LocalPlane(
            ClusterOptions(pipeline, pipeline.servers, interval_s=round_s, lease=LEASE),
            engine="onnx",
            pipeline_file=str(file.path),
            device=device,
            policy="rounds",
            policy_options={"plans": msgspec.to_builtins([one.plan for one in rounds])},
            policy_factory=f"{__name__}:rounds_policy",
            journal=journal,
        ) as plane,
        Client(plane.front) as client,
    ):
        begin = client.begin_run()
        spans = [(begin + number * round_s, begin + (number + 1) * round_s) for number in range(len(rounds))]
        missing = IN_FLIGHT * pipeline.servers
        for number, (_, end) in enumerate(spans):
            # Once a round: a bar that moves costs time of the cores that are measured.
            progress("measure as served", number / len(spans))
            while (left := end - time.monotonic()) > 0:
                for _ in range(missing):
                    client.submit_packed(next(payloads))
                missing = _answered(client.poll(left))
            plane.check()
    progress("measure as served", 1.0)
    return spans


def _answered(answers: Sequence[object]) -> int:
    """How many they are. Raises EngineError if a request failed."""
    for answer in answers:
        if not isinstance(answer, Inference) or answer.outcome != "ok":
            why = f"{answer.outcome}, {answer.reason}" if isinstance(answer, Inference) else str(answer)
            raise EngineError(f"a request failed while the plane was measured: {why}")
    return len(answers)
