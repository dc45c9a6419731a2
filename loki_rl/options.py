"""What the fields of options are made of: limits, and the help that makes a field a flag. Fields that several structs share
are declared here, once."""

from __future__ import annotations

from typing import Annotated, NamedTuple

from msgspec import Meta


class Help(NamedTuple):
    """What a key of a file means; a field of options, or a parameter of a command, it makes a flag. text: what it means, its
    unit, its default. flag: another name than that of the field; without dashes it is a positional argument."""

    text: str
    flag: str = ""


# Every server is a record of its own in plane and twin.
MOST_SERVERS = 100_000
# Demand of which plans can be made [1/s], and what may be added to it.
LEAST_RPS, MOST_RPS = 1e-6, 1e9
MOST_HEADROOM = 1000.0
# Whoever waits for longer than a day is not served.
MOST_S = 86_400.0

Positive = Annotated[float, Meta(gt=0)]
NotNegative = Annotated[float, Meta(ge=0)]
Fraction = Annotated[float, Meta(ge=0, le=1)]
Rate = Annotated[float, Meta(ge=LEAST_RPS, le=MOST_RPS)]
Slo = Annotated[float, Meta(gt=0, le=1000 * MOST_S)]
Count = Annotated[int, Meta(ge=1)]
Port = Annotated[int, Meta(ge=0, le=65535)]

PipelineName = Annotated[str, Help("Pipeline file, or the name of one in pipelines/.", "pipeline")]
Servers = Annotated[
    Annotated[int, Meta(ge=1, le=MOST_SERVERS)] | None, Help("Servers in the cluster (default: as in the pipeline file).")
]
Seed = Annotated[Annotated[int, Meta(ge=0)], Help("Seed of all that is drawn at random.")]
MeanRate = Annotated[Positive | None, Help("Scale the trace to this mean rate [1/s].")]
LoadTime = Annotated[
    Annotated[float, Meta(ge=0, le=MOST_S)] | None, Help("Time to load any model [s] (default: as in the pipeline file).")
]
# Far below a solve it would never let the controller rest.
Interval = Annotated[Annotated[float, Meta(ge=0.1)], Help("Time between plans [s].")]
CalibrationFile = Annotated[
    str | None, Help("File of what a plane of this host was seen to take, for the twin (see loki-rl calibrate).")
]
WindowTrace = Annotated[str | None, Help("Cut windows from this trace (default: bursty generator).", "--trace")]
Intervals = Annotated[Count, Help("Decisions of an episode; its window lasts them, one interval and 195 s.")]
Randomise = Annotated[
    bool, Help("Draw service rate, servers, lag and lost counts per window, and the load time where none is given.")
]
