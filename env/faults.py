"""What goes wrong in a run of the twin, as a description."""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from math import isfinite
from pathlib import Path
from typing import Annotated

from msgspec import Struct
from msgspec.structs import asdict

from loki_rl.core.pipeline import Pipeline
from loki_rl.core.validation import require
from loki_rl.env.histogram import FanoutRow, read_histogram
from loki_rl.errors import UserError
from loki_rl.files.tables import read_yaml, table
from loki_rl.options import Help


class FaultError(UserError):
    """These faults cannot happen in this run; the message is one sentence: which, why, what to do."""


class Crash(Struct, frozen=True, forbid_unknown_fields=True):
    """A server's process is killed, and starts again, empty."""

    server: Annotated[int, Help("Its number, from 0.")]
    at_s: Annotated[float, Help("When [s of trace time].")]
    down_s: Annotated[float | None, Help("Until it starts again, empty [s]; at least 0.1. Without: never.")] = None


class Slow(Struct, frozen=True, forbid_unknown_fields=True):
    """Batches that a server begins in [from_s, to_s) take `factor` times as long."""

    server: Annotated[int, Help("Its number, from 0.")]
    factor: Annotated[float, Help("How many times as long its batches take.")]
    from_s: Annotated[float, Help("Batches that begin from then on [s of trace time].")] = 0.0
    to_s: Annotated[float | None, Help("And before then [s]. Without: to the end.")] = None


class Unloadable(Struct, frozen=True, forbid_unknown_fields=True):
    """Loads of a variant that begin in [from_s, to_s) fail, after the time that they usually take."""

    task: Annotated[str, Help("Whose variant.")]
    variant: Annotated[str, Help("Which.")]
    from_s: Annotated[
        float,
        Help(
            "Loads that begin from then on [s of trace time]; below 0 also those of the first plan, which is loaded before "
            "time 0."
        ),
    ] = 0.0
    to_s: Annotated[float | None, Help("And before then [s]. Without: to the end.")] = None


class _Common(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    crashes: Annotated[tuple[Crash, ...], Help("Processes of servers that end; see below.")] = ()
    slow: Annotated[tuple[Slow, ...], Help("Servers that are slow for a while; see below.")] = ()
    unloadable: Annotated[tuple[Unloadable, ...], Help("Variants that cannot be loaded for a while; see below.")] = ()
    metric_lag_s: Annotated[float, Help("Counts of arrivals and backlogs reach the controller this much later [s].")] = 0.0
    service_noise: Annotated[
        float,
        Help("Standard deviation of the logarithm of a factor on every service time, mean 1 (0.1: about 10 %); at most 2."),
    ] = 0.0


class Faults(_Common, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All that a run adds to an undisturbed one. fanout: measured numbers of children, resampled instead of the profile's
    Poisson."""

    fanout: tuple[FanoutRow, ...] = ()


NO_FAULTS = Faults()
LEAST_DOWN_S = 0.1


class FaultsTable(_Common, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A faults file; every key may be left out."""

    fanout: Annotated[
        str | None,
        Help(
            "CSV file (columns task,variant,child,count,weight) of measured numbers of children, used instead of Poisson "
            "ones; it starts at the folder of this file."
        ),
    ] = None


def load_faults(path: Path) -> Faults:
    """Read a YAML file with the fields of Faults; `fanout` names a CSV file beside it. Raises ConfigError."""
    data = table(read_yaml(path), FaultsTable, str(path))
    rows = () if data.fanout is None else read_histogram(path.parent / data.fanout)
    return Faults(**asdict(data) | {"fanout": rows})


def check_faults(faults: Faults, pipeline: Pipeline, servers: int) -> None:
    """Raise FaultError where the faults contradict the cluster or themselves."""
    for crash in faults.crashes:
        what = f"the crash of server {crash.server}"
        _known(crash.server, servers, what)
        _require(crash.at_s >= 0, f"{what}: at_s must be at least 0, not {crash.at_s:g}")
        long = crash.down_s is None or crash.down_s >= LEAST_DOWN_S
        _require(long, f"{what}: no process starts in less than {LEAST_DOWN_S} s; down_s is {crash.down_s}")
    for one, after in pairwise(sorted(faults.crashes, key=lambda crash: (crash.server, crash.at_s))):
        up = one.server != after.server or (one.down_s is not None and one.at_s + one.down_s < after.at_s)
        _require(up, f"server {one.server} crashes at {after.at_s:g} s while it is down; take one of the crashes out")
    for slow in faults.slow:
        what = f"slow server {slow.server}"
        _known(slow.server, servers, what)
        _require(slow.factor > 0, f"{what}: factor must be above 0, not {slow.factor:g}")
        ordered = slow.to_s is None or slow.from_s < slow.to_s
        _require(slow.from_s >= 0 and ordered, f"{what}: need 0 <= from_s < to_s, not {slow.from_s:g} and {slow.to_s}")
    _require(faults.metric_lag_s >= 0, f"metric_lag_s must be at least 0, not {faults.metric_lag_s:g}")
    _require(0 <= faults.service_noise <= 2, f"service_noise must lie in 0..2, not {faults.service_noise:g}")
    for unloadable in faults.unloadable:
        _check_unloadable(unloadable, pipeline)
    for row in faults.fanout:
        _check_row(row, pipeline)


def _check_unloadable(one: Unloadable, pipeline: Pipeline) -> None:
    what = f"unloadable '{one.variant}' of '{one.task}'"
    _require(one.task in pipeline.index, f"{what}: the pipeline has no task '{one.task}'; it has {sorted(pipeline.index)}")
    known = pipeline.variant_index[pipeline.index[one.task]]
    _require(one.variant in known, f"{what}: the task has no such variant; it has {sorted(known)}")
    ordered = isfinite(one.from_s) and (one.to_s is None or one.from_s < one.to_s)
    _require(ordered, f"{what}: need from_s < to_s, not {one.from_s:g} and {one.to_s}")


def _check_row(row: FanoutRow, pipeline: Pipeline) -> None:
    what = f"fan-out of {row.variant}"
    _require(row.task in pipeline.index, f"{what}: the pipeline has no task '{row.task}'; correct the histogram")
    task = pipeline.index[row.task]
    _require(row.variant in pipeline.variant_index[task], f"{what}: task '{row.task}' has no such variant")
    below = [pipeline.tasks[child].name for child in pipeline.children[task]]
    _require(row.child in below, f"{what}: '{row.child}' is not a child of '{row.task}'; it has {below}")
    most = pipeline.max_children
    _require(len(row.weights) - 1 <= most, f"{what}: at most {most} children are supported")
    fits = bool(row.weights) and min(row.weights) >= 0 and sum(row.weights) > 0
    _require(fits, f"{what}: the weights must be at least 0 and not all 0")


def _known(server: int, servers: int, what: str) -> None:
    _require(0 <= server < servers, f"{what}: servers are numbered 0 to {servers - 1}")


_require = partial(require, error=FaultError)
