"""Policies side by side: policies x traces x seeds x drivers, and what is told of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from msgspec import Struct
from msgspec.structs import asdict, replace

from loki_rl.reports.board import show_comparison
from loki_rl.reports.report import result_row, write_report
from loki_rl.reports.summary import Average, averages
from loki_rl.runs.batch_runner import Case, Failure, Progress, Runner, play
from loki_rl.runs.options import Driver, RunOptions
from loki_rl.runs.result import RunResult


class Comparison(Struct):
    """All that came out, in the order of the cases. reused: runs that were there already. report: the Markdown file, a page
    of the same name beside it. recorded: the run whose requests all of them played, if there was one."""

    results: list[RunResult]
    summary: list[Average]
    failures: list[Failure]
    reused: int
    report: Path
    recorded: RunResult | None = None

    @property
    def shown(self) -> list[RunResult]:
        """What is set side by side."""
        return [*self.results, *([] if self.recorded is None else [self.recorded])]


def build_cases(
    options: RunOptions,
    *,
    policies: Iterable[str],
    traces: Iterable[str],
    seeds: Iterable[int],
    drivers: Iterable[Driver] = ("twin",),
) -> list[RunOptions]:
    """Every combination; all else as in `options`, but that a calibration is for the twin alone. Seeds come before policies,
    so that whatever an interrupted comparison has finished is about complete for some seeds."""
    policies, seeds, drivers = list(dict.fromkeys(policies)), list(dict.fromkeys(seeds)), list(dict.fromkeys(drivers))
    return [
        replace(
            options,
            driver=driver,
            trace=trace,
            seed=seed,
            policy=policy,
            calibration=options.calibration if driver == "twin" else None,
        )
        for driver in drivers
        for trace in dict.fromkeys(traces)
        for seed in seeds
        for policy in policies
    ]


def document(found: Comparison) -> dict[str, object]:
    """The JSON of a comparison."""
    return {
        "results": [result_row(done) for done in found.results],
        "summary": [asdict(row) for row in found.summary],
        "failures": [
            {
                "policy": failure.options.policy,
                "driver": failure.options.driver,
                "trace": failure.options.trace,
                "seed": failure.options.seed,
                "sentence": failure.sentence,
            }
            for failure in found.failures
        ],
        **({} if found.recorded is None else {"recorded": result_row(found.recorded)}),
        "reused": found.reused,
        "report": str(found.report),
    }


def compare(
    cases: Sequence[RunOptions],
    run: Mapping[str, Runner],
    logdir: Path,
    jobs: int | None = None,
    progress: Callable[[Progress], None] | None = None,
    fresh: bool = False,
    recorded: RunResult | None = None,
    cluster: str = "",
) -> Comparison:
    """Run all cases and write their folders, results.csv, report.md with its plots, and what TensorBoard shows of
    all of them into the log folder. recorded: as in
    Comparison.

    The rest is as in `play`.
    """
    played = play([Case(options, logdir) for options in cases], run, jobs, progress, fresh, cluster)
    results = [played.results[place] for place in sorted(played.results)]
    failures = [played.failures[place] for place in sorted(played.failures)]
    beside = [] if recorded is None else [recorded]
    report = write_report([*results, *beside], logdir, [str(failure) for failure in failures])
    show_comparison(results, logdir)
    return Comparison(results, averages([*results, *beside]), failures, played.reused, report, recorded)
