"""One run: a policy plays a trace in the twin, or on a plane of this host."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec.structs import asdict

from loki_rl.api.arguments import checked, folder, path
from loki_rl.api.planning import Named, read
from loki_rl.api.shown import Picture, frame, picture
from loki_rl.env.faults import load_faults
from loki_rl.reports.phases import phases
from loki_rl.reports.plots import timeline_png
from loki_rl.runs.experiment import experiment_folder
from loki_rl.runs.options import Driver, RunOptions
from loki_rl.runs.result import RunResult
from loki_rl.runs.run import RUNNERS
from loki_rl.runs.run_folder import folder_of, save
from loki_rl.runs.tensorboard.curves import curves

if TYPE_CHECKING:
    from pandas import DataFrame


class Run(RunResult, kw_only=True):
    """What came of a run. `summary` has its figures (slo_violation_ratio and accuracy 0..1, servers_mean, p50_ms, p99_ms,
    cost_j ...), `options` what it was made of, `tally` what was counted in every second. folder: where it is kept, if
    it is."""

    folder: Path | None = None

    def __repr__(self) -> str:
        found, asked = self.summary, self.options
        figures = f"{found.arrivals} requests, {found.slo_violation_ratio:.2%} violations"
        accuracy = "" if found.accuracy is None else f", accuracy {found.accuracy:.2%}"
        return f"<{asked.policy} on {self.trace}, seed {asked.seed}: {figures}{accuracy}>"

    def to_pandas(self) -> DataFrame:
        """[seconds of the trace] a row for each, its number the index `second`; columns as the curves in TensorBoard are
        named: serving/demand_rps and serving/goodput_rps [1/s], serving/slo_violation_ratio and serving/accuracy 0..1,
        serving/servers_used, policy/planned_demand_rps ... Raises TableError."""
        rows = curves(self.tally, self.duration_s, cluster=self.summary.servers_mean is not None)
        return frame([{"second": number, **row} for number, row in enumerate(rows)], "second")

    def phases(self) -> DataFrame:
        """A row for each stretch of the run in which one thing happened (fewer servers, cheaper models, requests lost): from
        begin_s to end_s [s] of the trace. Raises TableError."""
        return frame([asdict(phase) for phase in phases(self)])

    def plot(self) -> Picture:
        """Demand, servers, accuracy, violations and what happened over time. Raises PlotError without matplotlib."""
        return picture(lambda file: timeline_png([self], file))


def simulate(
    pipeline: Named,
    trace: str | Path = "flash_crowd",
    policy: str = "exact",
    *,
    seed: int = 0,
    driver: Driver = "twin",
    faults: str | Path | None = None,
    logdir: str | Path | None = None,
    **options: Any,
) -> Run:
    """Play a trace against a policy: in the event twin, or with driver "emulated" or "onnx" on a plane of this host.

    pipeline: file, name of one that ships, or what `load_pipeline` gave. trace: file, or the name of one that ships. policy:
    its name, such as "exact". seed: of all that is drawn at random. faults: YAML file of what goes wrong in the twin.
    logdir: keep a run folder for TensorBoard below this folder, in one of its own where that holds another experiment.
    options: any other field of `loki_rl.runs.options.RunOptions`, such as servers, rate_scale, mean_rps [1/s], from_s, to_s,
    slo_ms, interval_s and min_accuracy.

    A run of the twin is repeated exactly by the same arguments. Raises ConfigError, TraceError, RequestError, FaultError or
    FolderError, one sentence, for what is wrong with the arguments or the files that they name.
    """
    given = {"trace": trace, "policy": policy, "seed": seed, "driver": driver}
    asked = options_of(pipeline, {**given, **with_faults(faults), **options}, "simulate")
    home = None if logdir is None else experiment_folder(asked, folder(logdir, "logdir"))
    done = RUNNERS[asked.driver](asked, None if home is None else folder_of(asked, home))
    return run_of(done, None if home is None else save(done, home))


def options_of(pipeline: Named, given: Mapping[str, object], where: str) -> RunOptions:
    """The options of a run, checked as those of a run.json are. Raises ConfigError that names what is at fault."""
    file = read(pipeline)
    if isinstance(pipeline, str | Path):
        return checked({"pipeline": pipeline, **given}, RunOptions, where)
    profile = {} if file.profile is None else {"profile": file.profile}
    return checked({"pipeline": file.path, "slo_ms": 1000 * file.pipeline.slo_s, **profile, **given}, RunOptions, where)


def with_faults(file: str | Path | None) -> dict[str, object]:
    """The option of a faults file, where there is one. Raises ConfigError."""
    return {} if file is None else {"faults": load_faults(path(file, "faults"))}


def run_of(done: RunResult, folder: Path | None = None) -> Run:
    """The same with what a notebook asks of it."""
    return Run(folder=folder, **{name: getattr(done, name) for name in RunResult.__struct_fields__})
