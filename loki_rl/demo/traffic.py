"""Part B: emulated servers show the phases of scaling, and what being ready costs while nothing happens."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table

from loki_rl.control.allocator.allocate import allocate, capacity
from loki_rl.control.formulation.request import Request
from loki_rl.control.policies.named import kind_of
from loki_rl.core.pipeline import Pipeline
from loki_rl.core.requests.ledger import VIOLATION_WEIGHT, cost
from loki_rl.demo.crowd import Crowd
from loki_rl.demo.stage import PLAIN, PLANNED, Stage, play_all
from loki_rl.files.config import load_pipeline
from loki_rl.reports.phases import Happening, Phase, phase_of, phases
from loki_rl.runs.options import RunOptions
from loki_rl.runs.result import RunResult
from loki_rl.runs.run import RUNNERS
from loki_rl.runs.tensorboard.curves import whole_seconds

POLICIES = (PLAIN, "loki", PLANNED)
# The least mean accuracy that plans may have. Without one the fastest models would serve several times the crowd.
FLOOR = 0.9
# Of what the most accurate models can do while it is calm; at its height, of what can be served above the floor.
BASE, HEIGHT = 0.3, 1.1
CALM_S, RISE_S, HELD_S, FALL_S, AFTER_S = 12, 20, 7, 4, 4
WORDS: dict[Happening, str] = {
    "fewer servers": "a part of the servers does",
    "cheaper ones step in": "stand-bys serve, others load",
    "all servers": "all servers, best models",
    "cheaper models": "all servers, cheaper models",
    "requests lost": "too much: some are shed",
}


def traffic(stage: Stage) -> list[RunResult]:
    """First more servers, then cheaper models, then shedding. Raises DemoError if a run failed."""
    pipeline = load_pipeline("traffic").pipeline
    best_rps = capacity(pipeline, pipeline.servers, min_accuracy=pipeline.best_accuracy).capacity_rps
    most_rps = capacity(pipeline, pipeline.servers, min_accuracy=FLOOR).capacity_rps
    crowd = Crowd(BASE * best_rps, HEIGHT * most_rps, CALM_S, RISE_S, HELD_S, FALL_S, AFTER_S)
    stage.show(
        f"Planned: {best_rps:.0f} requests/s with the most accurate models, {most_rps:.0f} at a mean accuracy of "
        f"{FLOOR:.0%}, the least that plans may have here. A crowd {crowd}."
    )
    times = (f"'{policy}' every {kind_of(policy).interval_s:g} s" for policy in POLICIES)
    stage.show(f"Each policy plans as often as it is made to: {', '.join(times)}.")
    folder = stage.folder / "traffic"
    options = RunOptions(
        "traffic", str(crowd.save(folder)), PLAIN, "emulated", servers=pipeline.servers, min_accuracy=FLOOR,
        initial_rps=crowd.base_rps,
    )  # fmt: skip
    results = play_all(stage, options, POLICIES, "emulated", RUNNERS["emulated"], folder)
    for line in verdict(results):
        stage.show(line)
    planned = next(done for done in results if (done.options.driver, done.options.policy) == ("emulated", PLANNED))
    stage.show(f"\nWhat happened on the plane with '{PLANNED}':")
    stage.show(phase_table(phases(planned)))
    stage.show(readiness(planned, pipeline, crowd))
    return results


def verdict(results: Sequence[RunResult]) -> list[str]:
    """A line for each driver: what every policy missed, and at what accuracy."""
    lines = []
    for driver in dict.fromkeys(done.options.driver for done in results):
        here = [done for done in results if done.options.driver == driver]
        parts = (
            f"'{done.options.policy}' {done.summary.slo_violation_ratio:.1%} at accuracy {done.summary.accuracy or 0.0:.1%}"
            for done in here
        )
        lines.append(f"{driver}: deadlines missed with {', '.join(parts)} (best models: {here[0].best_accuracy:.1%}).")
    return lines


def phase_table(found: Sequence[Phase]) -> Table:
    """A row for each stretch."""
    table = Table(box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0), pad_edge=False)
    for title in ("seconds", "requests/s", "servers", "accuracy", "lost"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("what happens", no_wrap=True)
    for phase in found:
        low, high = phase.servers
        table.add_row(
            f"{phase.begin_s} to {phase.end_s}",
            f"{phase.demand_rps:.0f}",
            f"{low if low == high else f'{low} to {high}'}",
            f"{'-' if phase.accuracy is None else f'{phase.accuracy:.1%}'}",
            f"{phase.lost:.1%}",
            WORDS[phase.happening],
        )
    return table


def readiness(done: RunResult, pipeline: Pipeline, crowd: Crowd) -> str:
    """What the policy paid while nothing happened, beside the cheapest plan for just that demand."""
    calm = phase_of(whole_seconds(done.tally, done.duration_s), 0, crowd.calm_s, "fewer servers")
    plan = allocate(pipeline, Request(demand_rps=calm.demand_rps, servers=done.servers, min_accuracy=FLOOR))
    servers = sum(second.servers for second in whole_seconds(done.tally, done.duration_s)[: crowd.calm_s]) / crowd.calm_s
    paid = cost(1000, 1000, 1000 * (calm.accuracy or 0.0), pipeline.best_accuracy, servers / done.servers, VIOLATION_WEIGHT)
    least = cost(1000, 1000, 1000 * plan.accuracy, pipeline.best_accuracy, plan.servers / done.servers, VIOLATION_WEIGHT)
    return (
        f"While nothing happened (the first {crowd.calm_s} s) '{done.options.policy}' had {servers:.1f} servers in use at "
        f"accuracy {calm.accuracy or 0.0:.1%}, J {paid:.3f}; the cheapest plan for this demand alone has {plan.servers} at "
        f"{plan.accuracy:.1%}, J {least:.3f}. The difference is what being ready for a crowd costs."
    )
