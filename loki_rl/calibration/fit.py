"""Fit a calibration to recordings of a plane."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import get_args

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from loki_rl.calibration.batches import Floats, Jobs, jobs_of, joined
from loki_rl.calibration.contention import fit_contention
from loki_rl.calibration.delays import delays_of, plans_of
from loki_rl.calibration.mood import fit_mood
from loki_rl.core.pipeline import Pipeline
from loki_rl.decoding import UNREADABLE
from loki_rl.errors import UserError
from loki_rl.files.calibration_file import (
    LEVELS,
    Calibration,
    Contention,
    Delay,
    DelayTimes,
    LoadTimes,
    Median,
    PlanTimes,
    Recorded,
    ServiceTimes,
)
from loki_rl.flight.columns import Flight, read_flight
from loki_rl.flight.file import Head

# Batches in all, of a variant (else its task, else all count for it), loads of a variant, plans of a policy.
WANTED, WANTED_OF_ONE, WANTED_LOADS, WANTED_PLANS = 200, 40, 3, 10
DIGITS = 6
# No batch takes less than this share of what was profiled.
LEAST = 1e-6


class CalibrationError(UserError):
    """Nothing can be fitted to these recordings; the message says why and what to do."""


class Recording(Struct):
    """One that is fitted to. file: what it is called."""

    file: str
    head: Head
    flight: Flight

    @property
    def policy(self) -> str:
        """Empty if nobody said."""
        try:
            return str(msgspec.json.decode(self.head.run)["policy"]) if self.head.run else ""
        except (*UNREADABLE, KeyError, TypeError):
            return ""


def read_recordings(paths: Iterable[Path]) -> list[Recording]:
    """Raises FlightError."""
    return [Recording(str(path), *read_flight(path)) for path in paths]


def calibrate(recordings: Sequence[Recording], command: str) -> Calibration:
    """What all recordings show together. command: as the file is to tell how it was made. Raises CalibrationError."""
    profiled = _pipeline(recordings)
    pairs = [jobs_of(one.flight, one.head.cluster, profiled, number) for number, one in enumerate(recordings)]
    batches, loads = joined([pair[0] for pair in pairs]), joined([pair[1] for pair in pairs])
    if len(batches.begin) < WANTED:
        raise CalibrationError(
            f"the recordings have {len(batches.begin)} batches that went well, and {WANTED} are wanted; record a longer run"
        )
    contention = fit_contention(batches)
    alone_s = batches.alone_s(_speeds(contention, batches))
    alike = not recordings[-1].head.cluster.pool
    return Calibration(
        pipeline=profiled.name,
        host=recordings[-1].head.host,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        command=command,
        recordings=tuple(_recorded(one) for one in recordings),
        services=tuple(_services(batches, alone_s / batches.usual_s, profiled, alike)),
        loads=tuple(_loads(loads, recordings, contention, profiled)),
        delays=tuple(_delays(recordings)),
        plans=tuple(_plans(recordings)),
        contention=contention,
        mood=fit_mood(batches, alone_s),
    )


def _pipeline(recordings: Sequence[Recording]) -> Pipeline:
    """The one that all are of, with the figures of the last."""
    last = recordings[-1]
    for one in recordings:
        mine, its = one.head.cluster.pipeline, last.head.cluster.pipeline
        if (mine.name, _names(mine)) != (its.name, _names(its)):
            raise CalibrationError(
                f"{one.file} is of pipeline '{mine.name}' and {last.file} of '{its.name}', or their variants differ; "
                "calibrate one pipeline at a time"
            )
        if not len(one.flight.services):
            raise CalibrationError(f"{one.file} has no batch in it; record a run with requests")
    return last.head.cluster.pipeline


def _names(pipeline: Pipeline) -> list[tuple[str, str]]:
    return [(task.name, variant.name) for task in pipeline.tasks for variant in task.variants]


def _recorded(one: Recording) -> Recorded:
    flight = one.flight
    times = np.concatenate((flight.arrivals["at"], flight.answers["at"], flight.services["end"]))
    seconds = round(float(np.ptp(times)), 3)
    return Recorded(
        one.file, one.policy, one.head.cluster.servers, seconds, len(flight.arrivals), len(flight.services)
    )  # fmt: skip


def quantiles(values: Floats, least: float = 0.0) -> tuple[float, ...]:
    """At LEVELS, none below `least`."""
    found: list[float] = np.maximum(least, np.quantile(values, LEVELS).round(DIGITS)).tolist()
    return tuple(found)


def _services(batches: Jobs, ratio: Floats, profiled: Pipeline, alike: bool) -> Iterable[ServiceTimes]:
    """Of every variant and task of which there is enough, and of all. alike: whether all servers have the same profile."""
    for place, task in enumerate(profiled.tasks):
        of_task = batches.task == place
        for number, variant in enumerate(task.variants):
            mine = of_task & (batches.variant == number)
            if mine.sum() >= WANTED_OF_ONE:
                times = [Median(n, round(1000 * row.p50, DIGITS)) for n, row in variant.latency.items()] if alike else []
                yield ServiceTimes(task.name, variant.name, int(mine.sum()), quantiles(ratio[mine], LEAST), tuple(times))
        if of_task.sum() >= WANTED_OF_ONE:
            yield ServiceTimes(task.name, None, int(of_task.sum()), quantiles(ratio[of_task], LEAST))
    yield ServiceTimes(None, None, len(ratio), quantiles(ratio, LEAST))


def _loads(
    loads: Jobs, recordings: Sequence[Recording], contention: Contention, profiled: Pipeline
) -> Iterable[LoadTimes]:  # fmt: skip
    """While a run goes on, where models were loaded in it: the first loads of a process take longer."""
    origins = [one.flight.origin for one in recordings]
    begun = np.array([-np.inf if origin is None else origin for origin in origins])
    during = loads.begin >= begun[loads.recording] if len(loads.begin) else np.zeros(0, np.bool_)
    alone_s = loads.alone_s(_speeds(contention, loads))
    for place, task in enumerate(profiled.tasks):
        for number, variant in enumerate(task.variants):
            mine = _preferred((loads.task == place) & (loads.variant == number), during, WANTED_LOADS)
            if mine.sum() >= WANTED_LOADS:
                yield LoadTimes(task.name, variant.name, int(mine.sum()), quantiles(alone_s[mine]))
    known = _preferred(loads.usual_s > 0, during, WANTED_LOADS)
    if known.any():
        yield LoadTimes(None, None, int(known.sum()), quantiles(alone_s[known] / loads.usual_s[known]))


def _preferred(which: NDArray[np.bool_], better: NDArray[np.bool_], enough: int) -> NDArray[np.bool_]:
    """The better ones of these, where there are enough."""
    both: NDArray[np.bool_] = which & better
    return both if both.sum() >= enough else which


def _speeds(contention: Contention, jobs: Jobs) -> list[float]:
    return [contention.speed(busy) for busy in range(1, jobs.busy.shape[1] + 1)]


def _delays(recordings: Sequence[Recording]) -> Iterable[DelayTimes]:
    seen = [delays_of(one.flight) for one in recordings]
    kinds: tuple[Delay, ...] = get_args(Delay)
    for kind in kinds:
        values = np.concatenate([one[kind] for one in seen])
        if len(values):
            yield DelayTimes(kind, len(values), quantiles(values))


def _plans(recordings: Sequence[Recording]) -> Iterable[PlanTimes]:
    """Of each policy that planned often enough, and of all together."""
    seen = [(one.policy, plans_of(one.flight)) for one in recordings]
    for policy in sorted({policy for policy, _ in seen if policy}):
        values = np.concatenate([times for name, times in seen if name == policy])
        if len(values) >= WANTED_PLANS:
            yield PlanTimes(policy, len(values), quantiles(values))
    values = np.concatenate([times for _, times in seen])
    if len(values):
        yield PlanTimes(None, len(values), quantiles(values))
