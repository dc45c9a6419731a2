"""A study: runs that belong together, and the table, chart and claims that come of them."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Literal

from msgspec import Struct

from loki_rl.control.allocator.allocate import capacity
from loki_rl.control.allocator.reasons import highest_floor
from loki_rl.control.formulation.request import Request
from loki_rl.core.pipeline import Pipeline
from loki_rl.core.requests.ledger import Summary
from loki_rl.reports import summary
from loki_rl.runs.options import RunOptions
from loki_rl.runs.result import RunResult

# Figures below a published one by no more than this share of it agree with it.
NEARLY = 0.1

Row = tuple[str | float, ...]
Cases = dict[str, RunOptions]
Runs = Mapping[str, Sequence[RunResult]]
# Says which runs it needs (all but their seeds), is sent these by name and seed, and returns what came out.
Making = Generator[Cases, Runs, "Study"]


class Claim(Struct, frozen=True):
    """A published figure beside ours. published: as the paper words it; value: the number in it; ours: None where it could
    not be measured; how: how each of the two is defined."""

    name: str
    published: str
    value: float
    ours: float | None
    how: str

    @property
    def verdict(self) -> str:
        """Whether ours agrees."""
        if self.ours is None:
            return "could not be measured"
        if self.ours >= (1 - NEARLY) * self.value:
            return "reproduced"
        return f"not reproduced: {self.ours / self.value:.0%} of it"


class Chart(Struct, frozen=True):
    """Columns of a study's table as a picture: bars by the names in the first column, or lines over its numbers; a panel for
    each of the columns named."""

    kind: Literal["bars", "lines"]
    panels: tuple[str, ...]


class Study(Struct, frozen=True):
    """A table, and the claims that it speaks to. over_time: names of runs that are also drawn over time."""

    title: str
    about: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    claims: tuple[Claim, ...] = ()
    chart: Chart | None = None
    over_time: tuple[str, ...] = ()


class Subject(Struct, frozen=True):
    """What is studied: options that all runs share, a pipeline and its cluster, and a folder for traces."""

    options: RunOptions
    pipeline: Pipeline
    servers: int
    folder: Path

    @property
    def best(self) -> float:
        """Accuracy without any loss: the best that fits the SLO."""
        return highest_floor(self.pipeline, Request(demand_rps=1.0, servers=self.servers))

    @property
    def hardware_rps(self) -> float:
        """What the most accurate variants alone can serve."""
        return capacity(self.pipeline, self.servers, self.best).capacity_rps


def means(runs: Runs) -> dict[str, Summary]:
    """Of every case the mean over its seeds."""
    return {name: Summary(**summary.means([done.summary for done in seeds])) for name, seeds in runs.items()}
