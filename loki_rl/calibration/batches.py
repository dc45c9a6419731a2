"""Batches and loads of recordings as arrays: how long each took, of how long it takes as profiled, and what else ran on the
host meanwhile."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from loki_rl.core.options import ClusterOptions
from loki_rl.core.pipeline import Pipeline
from loki_rl.core.servers.servers import Servers
from loki_rl.flight.columns import Flight
from loki_rl.flight.packing import Columns

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
# Crowds of more than so many jobs count as this one.
MOST_JOBS = 256
# No batch takes longer, no clock shows more [s].
LONGEST_S, FARTHEST_S = 1e5, 1e12


class Jobs(Struct):
    """N batches or loads. task, variant: positions; begin [s], of its recording; seconds: what the engine took; usual_s: as
    profiled; busy [N, K]: time during which 1, 2, ... K jobs ran on the host, this one included [s]; at_begin: how many ran
    when it began, it included; recording: of which."""

    task: Ints
    variant: Ints
    begin: Floats
    seconds: Floats
    usual_s: Floats
    busy: Floats
    at_begin: Ints
    recording: Ints

    @property
    def models(self) -> Ints:
        """Of each the number of its variant, in no order."""
        return self.task * (int(self.variant.max(initial=0)) + 1) + self.variant

    @property
    def shares(self) -> Floats:
        """[N, K]: of its time."""
        share: Floats = self.busy / np.maximum(self.busy.sum(axis=1, keepdims=True), 1e-12)
        return share

    def alone_s(self, speeds: Sequence[float]) -> Floats:
        """What each would have taken alone, had it run at these speeds beside 0, 1, ... others [s]."""
        taken: Floats = self.seconds * (self.shares @ np.array(speeds)[: self.busy.shape[1]])
        return taken

    def of(self, which: NDArray[np.bool_]) -> Jobs:
        """Some of them."""
        return Jobs(*(getattr(self, name)[which] for name in self.__struct_fields__))


def joined(parts: Sequence[Jobs]) -> Jobs:
    """All of them."""
    most = max(part.busy.shape[1] for part in parts)
    wide = [np.pad(part.busy, ((0, 0), (0, most - part.busy.shape[1]))) for part in parts]
    rest = {
        name: np.concatenate([getattr(part, name) for part in parts]) for name in Jobs.__struct_fields__ if name != "busy"
    }
    return Jobs(**rest, busy=np.concatenate(wide))


def jobs_of(flight: Flight, cluster: ClusterOptions, profiled: Pipeline, number: int) -> tuple[Jobs, Jobs]:
    """Batches and loads of recording `number` that went well. profiled: what they are compared with, where all servers are
    alike; else each type's own figures."""
    batches, loads = _sane(flight.services), _sane(flight.loads)
    begin = np.concatenate((batches["begin"], loads["begin"]))
    busy, at_begin = _company(begin, begin + np.concatenate((batches["seconds"], loads["seconds"])))
    cut = len(batches)
    batch_s, load_s = _usual(batches, loads, cluster, profiled)
    found = (
        _jobs(batches, batch_s, busy[:cut], at_begin[:cut], number),
        _jobs(loads, load_s, busy[cut:], at_begin[cut:], number),
    )
    return found[0], found[1]


def _sane(rows: Columns) -> Columns:
    """Without what no run has: the file may come from anywhere."""
    found: Columns = rows[(rows["seconds"] > 0) & (rows["seconds"] < LONGEST_S) & (np.abs(rows["begin"]) < FARTHEST_S)]
    return found


def _jobs(rows: Columns, usual_s: Floats, busy: Floats, at_begin: Ints, number: int) -> Jobs:
    well = ~rows["failed"] & np.isfinite(usual_s)
    recording = np.full(len(rows), number)
    return Jobs(
        rows["task"], rows["variant"], rows["begin"], rows["seconds"], usual_s, busy, at_begin, recording
    ).of(well)  # fmt: skip


def _usual(batches: Columns, loads: Columns, cluster: ClusterOptions, profiled: Pipeline) -> tuple[Floats, Floats]:
    """What batches and loads take as profiled [s]; not finite where that is not known."""
    servers = Servers(cluster)
    known = servers.pipelines if cluster.pool else (profiled,)
    batch_s, load_s = np.full(len(batches), np.inf), np.full(len(loads), np.inf)
    for kind, pipeline in enumerate(known):
        batches_here = np.array([servers.type_of(number) for number in batches["worker"].tolist()], np.int64) == kind
        loads_here = np.array([servers.type_of(number) for number in loads["worker"].tolist()], np.int64) == kind
        for task, variants in enumerate(pipeline.service_s):
            for variant, times in enumerate(variants):
                mine = batches_here & (batches["task"] == task) & (batches["variant"] == variant)
                mine &= (batches["items"] > 0) & (batches["items"] < len(times))
                batch_s[mine] = np.array(times)[batches["items"][mine]]
                mine = loads_here & (loads["task"] == task) & (loads["variant"] == variant)
                load_s[mine] = pipeline.tasks[task].variants[variant].load_s
    return batch_s, load_s


def _company(begin: Floats, end: Floats) -> tuple[Floats, Ints]:
    """Of jobs that run from begin to end [s]: [N, K] the time with 1, 2, ... K of them, and how many there were at begin."""
    times = np.concatenate((begin, end))
    order = np.lexsort((-np.repeat((1, -1), len(begin)), times))  # who begins as another ends has met it for no time
    times, steps = times[order], np.repeat((1, -1), len(begin))[order]
    crowd = np.minimum(np.cumsum(steps), MOST_JOBS)
    lasts = np.append(np.diff(times), 0.0)
    first, last = np.searchsorted(times, begin), np.searchsorted(times, end)
    busy = np.zeros((len(begin), max(1, int(crowd.max(initial=1)))))
    for level in range(1, busy.shape[1] + 1):
        passed = np.concatenate(((0.0,), np.cumsum(np.where(crowd == level, lasts, 0.0))))
        busy[:, level - 1] = passed[last] - passed[first]
    place = np.empty(len(times), np.int64)
    place[order] = np.arange(len(times))
    return busy, np.maximum(1, crowd[place[: len(begin)]])
