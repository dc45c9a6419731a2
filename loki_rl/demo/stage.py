"""Where the demo plays: its folder, how it speaks, and policies side by side on the same requests."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from msgspec import Struct
from rich.console import RenderableType

from loki_rl.errors import UserError
from loki_rl.reports.compare import build_cases, compare
from loki_rl.reports.report import table
from loki_rl.runs.batch_runner import Progress as Step
from loki_rl.runs.batch_runner import Runner
from loki_rl.runs.options import Driver, RunOptions
from loki_rl.runs.result import RunResult
from loki_rl.runs.run import RUNNERS
from loki_rl.serving.engines.hardware import HostLoad

PLAIN, PLANNED = "hardware", "exact"
# Share of the cores that other programs may take before figures need a warning.
NEIGHBOURS = 0.1


class DemoError(UserError):
    """The demo cannot go on; the message says why and what to do."""


class Stage(Struct):
    """Where the demo writes and how it speaks. show: a line or a table for people. bars: of what is being done, for how much
    of it is done."""

    folder: Path
    device: str
    show: Callable[[RenderableType], None]
    bars: Callable[[], AbstractContextManager[Callable[[str, float], None]]]


def play_all(
    stage: Stage, options: RunOptions, policies: Sequence[str], plane: Driver, run: Runner, folder: Path
) -> list[RunResult]:
    """Every policy in the twin and on a plane, a table of them, and where the picture over time is. Raises DemoError if a
    run failed."""
    neighbours = [0.0]

    def beside(options: RunOptions, to: Path | None) -> RunResult:
        load = HostLoad()
        done = run(options, to)
        neighbours.append(load.share())
        return done

    results = play(stage, options, policies, {"twin": RUNNERS["twin"], plane: beside}, folder)
    stage.show(table(results))
    if max(neighbours) > NEIGHBOURS:
        stage.show(
            f"Other programs took up to {max(neighbours):.0%} of the cores while the planes served; the twin has none."
        )
    picture = folder / f"timeline-{results[0].trace}.png"
    if picture.is_file():
        stage.show(f"Demand, servers and accuracy over time: {picture}")
    else:
        stage.show("There is no picture over time without matplotlib; install it with: pip install 'loki-rl\\[plot]'")
    return results


def play(
    stage: Stage, options: RunOptions, policies: Sequence[str], run: Mapping[Driver, Runner], folder: Path
) -> list[RunResult]:
    """Every policy with every driver, one seed; their folders and report. Raises DemoError if a run failed."""
    cases = build_cases(options, policies=policies, traces=[options.trace], seeds=[options.seed], drivers=run)
    # A picture of an earlier demo would pass for one of this.
    for old in folder.glob("timeline-*.png"):
        old.unlink()
    with stage.bars() as progress:

        def tell(step: Step) -> None:
            progress(f"{step.options.policy} ({step.options.driver})", 0.0 if step.state == "started" else 1.0)

        done = compare(cases, {str(driver): one for driver, one in run.items()}, folder, progress=tell, fresh=True)
    if done.failures:
        raise DemoError("; ".join(map(str, done.failures)))
    return done.results
