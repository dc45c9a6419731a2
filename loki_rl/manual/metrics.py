"""The page of metrics: every family that a plane exposes, read from an exposition of one with something of everything."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.metrics_core import Metric

from loki_rl.core.plan import Drift, Exclusion, Placement, Plan
from loki_rl.reports.page import table
from loki_rl.serving.observe.metrics import families
from loki_rl.serving.state import Control, PlaneState, Requests, SizeCount, Stage, Trouble, VariantCount, WorkerState

HEAD = """\
# Metrics

Made by `make reference` from what a plane exposes. `/metrics` of any HTTP process answers for the whole plane, in the text
format of Prometheus. [A scrape configuration](../deploy/prometheus.yml), [a Grafana dashboard](../deploy/grafana.json) and
[a table of alerts](tutorials/operate.md#watch) are there to copy. Times are in seconds, but for Triton's names; counters
begin with the plane and survive a restart of the gateway. Of a part that does not answer there are no metrics, and a 0 in
`loki_answers`.
"""
OWN = "Of a histogram `NAME_bucket`, `NAME_sum` and `NAME_count` are exposed."
TRITON = """\
As Triton names and means them, so that boards made for it work. `model` is the pipeline, or `PIPELINE.TASK` for a stage.
They have no type, because a counter's name would have to end in `_total`.
"""
PREFIX = "nv_"


def metrics_page() -> str:
    """The whole page."""
    found = list(families(_everything()))
    own = [one for one in found if not one.name.startswith(PREFIX)]
    triton = [one for one in found if one.name.startswith(PREFIX)]
    lines = [HEAD, "## Own names", "", OWN, "", *_table(own), "", "## Names of Triton", "", TRITON, *_table(triton)]
    return "\n".join(lines) + "\n"


def _table(found: list[Metric]) -> Iterator[str]:
    rows = ((f"`{_name(one)}`", one.type, ", ".join(_labels(one)), one.documentation) for one in found)
    yield from table(("metric", "type", "labels", "meaning"), rows)


def _name(one: Metric) -> str:
    return f"{one.name}_total" if one.type == "counter" else one.name


def _labels(one: Metric) -> list[str]:
    return [f"`{label}`" for label in one.samples[0].labels if label != "le"]


def _everything() -> PlaneState:
    """A plane with one of each thing that has metrics."""
    plan = Plan("hardware", (Placement("task", "variant", 1, 1),), 1, 1.0, 1.0, 1.0, 1.0, {}, {})
    control = Control(
        plan, 1.0, [WorkerState(0, "task/variant", 1, "", 1)], [],
        drift=[Drift("task", "variant", "", 1.5, {"child": 1.0})], excluded=[Exclusion("task", "variant", "", "why")],
    )  # fmt: skip
    served = VariantCount(items=1, sizes={1: SizeCount(1, 0.1)})
    return PlaneState(
        "pipeline", "emulated", 1.0, 1.0, 1, True, 1.0, 0, 0, Requests(served={"variant": 1}),
        stages=[Stage("task", 0, 0.0, {"variant": 1}, {"dropped": 0}, {"variant": served})],
        control=control, troubles=[Trouble("controller", "disk", 1)], turned={"size": 1},
    )  # fmt: skip
