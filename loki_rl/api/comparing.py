"""Policies side by side on the same requests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from msgspec import Meta, Struct
from msgspec.structs import asdict

from loki_rl.api.arguments import checked, folder, listed
from loki_rl.api.planning import Named
from loki_rl.api.running import options_of, run_of, with_faults
from loki_rl.api.shown import Picture, frame, picture
from loki_rl.options import Count
from loki_rl.reports import compare as reports
from loki_rl.reports.cost_chart import costs_png
from loki_rl.reports.paired import contrasts
from loki_rl.reports.plots import PlotError, timeline_png
from loki_rl.reports.report import result_row
from loki_rl.runs.experiment import experiment_folder
from loki_rl.runs.options import Driver
from loki_rl.runs.run import RUNNERS

if TYPE_CHECKING:
    from pandas import DataFrame


class Comparison(reports.Comparison):
    """What came of all runs: `results` (each a `Run`), `summary` (means over seeds for each policy, trace and driver),
    `failures`, and `report`, the file that shows them beside each other."""

    def __repr__(self) -> str:
        failed = f", {len(self.failures)} failed" if self.failures else ""
        return f"<{len(self.results)} runs{failed}; report: {self.report}>"

    def to_pandas(self) -> DataFrame:
        """A row for each run: trace, policy, driver, seed, then its figures (slo_violation_ratio and accuracy 0..1,
        servers_mean, p50_ms, p99_ms, cost_j ...). Raises TableError."""
        return frame([result_row(done) for done in self.results])

    def means(self) -> DataFrame:
        """A row for each policy, trace and driver: means over its n seeds. Raises TableError."""
        return frame([asdict(row) for row in self.summary])

    def plot(self) -> Picture:
        """The cost of every policy with its 95 % interval, and paired differences from the cheapest. Raises PlotError
        without matplotlib."""
        return picture(lambda file: costs_png(contrasts(self.results), file, "Cost by policy"))

    def timeline(self, trace: str | None = None) -> Picture:
        """All policies over time on one trace, by default the first. Raises PlotError without matplotlib, or for a trace
        that was not played."""
        name = trace or next((done.trace for done in self.results), None)
        played = [done for done in self.results if done.trace == name]
        if not played:
            raise PlotError(f"no run was on trace '{name}'; there are {sorted({done.trace for done in self.results})}")
        return picture(lambda file: timeline_png(played, file))


class Wanted(Struct, frozen=True):
    """Of which runs a comparison consists, as `compare` has it."""

    traces: Annotated[list[str], Meta(min_length=1)]
    policies: Annotated[list[str], Meta(min_length=1)]
    drivers: Annotated[list[Driver], Meta(min_length=1)]
    seeds: Count
    jobs: Count


def compare(
    pipeline: Named,
    traces: str | Path | Sequence[str | Path] = "flash_crowd",
    policies: str | Sequence[str] = ("static", "hardware", "loki", "exact"),
    *,
    seeds: int = 1,
    drivers: Driver | Sequence[Driver] = ("twin",),
    faults: str | Path | None = None,
    logdir: str | Path = "runs",
    jobs: int = 1,
    fresh: bool = False,
    **options: Any,
) -> Comparison:
    """Play the same requests against several policies, and set them side by side.

    pipeline: as in `simulate`. traces: one or several files or names. policies: one or several names. seeds: runs of each
    policy on each trace, with seeds from the option `seed` (0) on. drivers: one or several of "twin", "emulated" and "onnx".
    logdir: folder for run folders and report, or for one with these where it holds another experiment; runs that are there,
    made with the same options and code, are not made again unless fresh. faults: as in `simulate`. jobs: runs of the twin at
    once; a script that asks for more than one needs `if __name__ == "__main__":` around the call. options: as in `simulate`.

    A run that fails stands in `failures` and stops no other. Raises ConfigError, TraceError, RequestError, FaultError,
    FolderError or CasesError, one sentence, for what is wrong with the arguments or the files that they name.
    """
    several = {"traces": listed(traces), "policies": listed(policies), "drivers": listed(drivers)}
    wanted = checked({**several, "seeds": seeds, "jobs": jobs}, Wanted, "compare")
    asked = options_of(pipeline, {**with_faults(faults), **options}, "compare")
    each = range(asked.seed, asked.seed + wanted.seeds)
    cases = reports.build_cases(asked, policies=wanted.policies, traces=wanted.traces, seeds=each, drivers=wanted.drivers)
    home = experiment_folder(asked, folder(logdir, "logdir"))
    found = reports.compare(cases, RUNNERS, home, wanted.jobs, fresh=fresh)
    return Comparison([*map(run_of, found.results)], found.summary, found.failures, found.reused, found.report)
