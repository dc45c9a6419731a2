"""The plane's state as Prometheus metrics.

Own names begin with loki_, in seconds, with histograms that can be added up over instances. The nv_inference_* names are
those of Triton, so that boards made for it work.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate
from math import inf
from typing import TypeVar

from msgspec import Struct
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, UnknownMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from loki_rl.core.messages import Outcome
from loki_rl.core.plan import Plan
from loki_rl.serving.state import BOUNDS_S, Control, Histogram, PlaneState

CONTENT_TYPE = "text/plain; version=0.0.4"

Rows = Iterable[tuple[Sequence[str], float]]


def exposition(state: PlaneState) -> bytes:
    """The text that Prometheus scrapes."""
    registry = CollectorRegistry()
    registry.register(_Snapshot(state))
    return generate_latest(registry)


class _Snapshot(Collector):
    """One state, once."""

    def __init__(self, state: PlaneState) -> None:
        self._state = state

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterator[Metric]:
        return families(self._state)


def families(state: PlaneState) -> Iterator[Metric]:
    """All metrics of a state."""
    yield from _requests(state)
    yield from _stages(state)
    yield from _answering(state)
    yield _troubles(state)
    if state.control is not None:
        yield from _control(state.pipeline, state.control)
    yield from _triton(state)


# -- own names ------------------------------------------------------------------------------------------------------------

_PIPELINE = ("pipeline",)
_STAGE = ("pipeline", "stage")
_VARIANT = ("pipeline", "stage", "variant")


def _requests(state: PlaneState) -> Iterator[Metric]:
    requests, name = state.requests, state.pipeline
    own = (name,)
    ends = [((name, outcome.name.lower()), requests.outcomes[outcome]) for outcome in Outcome]
    yield _counter("loki_requests", "Requests by how they ended.", ("pipeline", "outcome"), ends)
    yield _counter("loki_arrivals", "Requests that arrived.", _PIPELINE, [(own, requests.arrivals)])
    yield _histogram("loki_request_seconds", "Arrival to answer, of ok and late.", _PIPELINE, [(own, requests.latency)])
    help = "Sum of the accuracies of ok requests; over loki_requests_total of ok it is their mean."
    yield _counter("loki_accuracy", help, _PIPELINE, [(own, requests.accuracy_sum)])
    served = [((name, path), leaves) for path, leaves in sorted(requests.served.items())]
    yield _counter("loki_leaves", "Leaves by the variants that served them.", ("pipeline", "path"), served)
    lost = [((name, "vanished"), state.vanished), ((name, "malformed"), state.malformed)]
    yield _counter("loki_client_faults", "Answers nobody took, and messages refused.", ("pipeline", "kind"), lost)
    turned = [((name, reason), count) for reason, count in sorted(state.turned.items())]
    yield _counter("loki_turned_away", "What HTTP and gRPC turned away, by limit.", ("pipeline", "reason"), turned)
    yield _gauge("loki_requests_in_flight", "Requests admitted and not answered.", _PIPELINE, [(own, requests.in_flight)])
    yield _gauge("loki_ready", "Whether clients should come here.", _PIPELINE, [(own, state.ready)])
    yield _gauge("loki_slo_seconds", "End-to-end deadline.", _PIPELINE, [(own, state.slo_s)])
    yield _gauge("loki_best_accuracy", "Accuracy of the most accurate path mix.", _PIPELINE, [(own, state.best_accuracy)])
    yield _gauge("loki_servers", "Servers of the cluster.", _PIPELINE, [(own, state.servers)])


def _stages(state: PlaneState) -> Iterator[Metric]:
    name, stages = state.pipeline, state.stages
    counts = [((name, stage.task, variant), count) for stage in stages for variant, count in stage.variants.items()]
    yield _counter("loki_items", "Items served.", _VARIANT, [(key, count.items) for key, count in counts])
    waits = [(key, count.queue) for key, count in counts]
    yield _histogram("loki_queue_seconds", "From entering a stage to a worker, per item.", _VARIANT, waits)
    times = [(key, count.compute) for key, count in counts]
    yield _histogram("loki_compute_seconds", "Service time, per batch.", _VARIANT, times)
    sizes = [((*key, str(size)), one.batches) for key, count in counts for size, one in sorted(count.sizes.items())]
    yield _counter("loki_batches", "Batches by their size.", (*_VARIANT, "size"), sizes)
    lost = [((name, stage.task, outcome), items) for stage in stages for outcome, items in stage.lost.items()]
    yield _counter("loki_lost_items", "Items that ended without a result.", (*_STAGE, "outcome"), lost)
    queued = [((name, stage.task), stage.queued) for stage in stages]
    yield _gauge("loki_queued_items", "Items that wait now.", _STAGE, queued)
    drains = [((name, stage.task), inf if stage.drain_s is None else stage.drain_s) for stage in stages]
    yield _gauge("loki_drain_seconds", "Predicted time to serve the queue.", _STAGE, drains)
    pulling = [((name, stage.task, variant), n) for stage in stages for variant, n in stage.pulling.items()]
    yield _gauge("loki_pulling_workers", "Workers that take batches.", _VARIANT, pulling)


def _answering(state: PlaneState) -> Iterator[Metric]:
    answers = {stage.task: True for stage in state.stages} | dict.fromkeys(state.silent, False)
    rows = [((state.pipeline, "controller"), state.control is not None)]
    rows += [((state.pipeline, f"stage {task}"), here) for task, here in answers.items()]
    yield _gauge("loki_answers", "Whether this part of the plane answers.", ("pipeline", "part"), rows)


def _troubles(state: PlaneState) -> Metric:
    rows = [((state.pipeline, one.process, one.kind), one.count) for one in state.troubles]
    return _counter(
        "loki_troubles", "What a process could not do, and goes on without.", ("pipeline", "process", "kind"), rows
    )


def _control(name: str, control: Control) -> Iterator[Metric]:
    workers, own = control.workers, (name,)
    yield _gauge("loki_demand_rps", "Arrivals in the last second.", _PIPELINE, [(own, control.demand_rps)])
    busy = sum(bool(worker.serving or worker.loading) for worker in workers)
    yield _gauge("loki_servers_used", "Servers that serve or load.", _PIPELINE, [(own, busy)])
    loading = sum(bool(worker.loading) for worker in workers)
    yield _gauge("loki_servers_loading", "Servers that load a model.", _PIPELINE, [(own, loading)])
    loads = [((name, str(worker.number)), worker.loads) for worker in workers]
    yield _counter("loki_model_loads", "Models loaded since the worker's process began.", ("pipeline", "worker"), loads)
    slow = [((name, one.task, one.variant, one.server_type), one.slowdown) for one in control.drift]
    help = "Measured over profiled service time, where that drifts."
    yield _gauge("loki_drift_slowdown", help, (*_VARIANT, "server_type"), slow)
    children = [
        ((name, one.task, one.variant, one.server_type, child), mean)
        for one in control.drift
        for child, mean in one.fanout.items()
    ]
    help = "Measured children per item, where service drifts from the profile."
    yield _gauge("loki_drift_fanout", help, (*_VARIANT, "server_type", "child"), children)
    excluded = [((name, one.task, one.variant, one.server_type), 1.0) for one in control.excluded]
    yield _gauge("loki_variant_excluded", "1 for what cannot be loaded now.", (*_VARIANT, "server_type"), excluded)
    if control.plan is not None:
        yield from _plan(name, control.plan)


def _plan(name: str, plan: Plan) -> Iterator[Metric]:
    for metric, help, value in (
        ("epoch", "Plans so far.", plan.epoch),
        ("demand_rps", "Demand the plan is for.", plan.demand_rps),
        ("capacity_rps", "What the plan can serve.", plan.capacity_rps),
        ("standby_rps", "Demand up to which variants without a share stand by.", plan.standby_rps),
        ("accuracy", "Accuracy the plan expects.", plan.accuracy),
        ("served_fraction", "Share of the demand it serves.", plan.served_fraction),
        ("servers", "Servers it uses.", plan.servers),
    ):
        yield _gauge(f"loki_plan_{metric}", help, _PIPELINE, [((name,), value)])
    yield _gauge("loki_plan_mode", "1 for the mode of the plan in force.", ("pipeline", "mode"), [((name, plan.mode), 1.0)])
    replicas = [((name, place.task, place.variant, str(place.batch)), place.replicas) for place in plan.placements]
    yield _gauge("loki_plan_replicas", "Workers per placement.", (*_VARIANT, "batch"), replicas)


# -- Triton's names -------------------------------------------------------------------------------------------------------

_REASONS = {
    "REJECTED": (Outcome.DROPPED, Outcome.REJECTED),
    "CANCELED": (Outcome.CANCELLED,),
    "BACKEND": (Outcome.FAILED,),
}


class _Model(Struct):
    """A line of Triton's metrics: the pipeline, or PIPELINE.TASK for a stage, as in `stats`."""

    success: int
    count: int
    batches: int
    pending: int
    request_s: float
    queue_s: float
    compute_s: float


_TRITON: tuple[tuple[str, str, Callable[[_Model], float]], ...] = (
    ("request_success", "Successful requests.", lambda model: model.success),
    ("count", "Inferences.", lambda model: model.count),
    ("exec_count", "Batches.", lambda model: model.batches),
    ("pending_request_count", "Requests that wait.", lambda model: model.pending),
    ("request_duration_us", "Sum of request times.", lambda model: round(1e6 * model.request_s)),
    ("queue_duration_us", "Sum of queue times.", lambda model: round(1e6 * model.queue_s)),
    ("compute_infer_duration_us", "Sum of compute times.", lambda model: round(1e6 * model.compute_s)),
)


def _triton(state: PlaneState) -> Iterator[Metric]:
    models = _models(state)
    for name, help, read in _TRITON:
        rows = [((model, "1"), read(figures)) for model, figures in models.items()]
        # Untyped, because a counter's name would have to end in _total, which Triton's do not.
        yield _fill(UnknownMetricFamily(f"nv_inference_{name}", help, labels=("model", "version")), rows)
    outcomes = state.requests.outcomes
    failures = [((state.pipeline, "1", reason), sum(outcomes[end] for end in ends)) for reason, ends in _REASONS.items()]
    labels = ("model", "version", "reason")
    yield _fill(UnknownMetricFamily("nv_inference_request_failure", "Failed requests.", labels=labels), failures)


def _models(state: PlaneState) -> dict[str, _Model]:
    requests = state.requests
    done, seconds = requests.latency.count, requests.latency.sum_s
    models = {state.pipeline: _Model(done, done, done, requests.in_flight, seconds, 0.0, 0.0)}
    for stage in state.stages:
        items, batches, queue_s, compute_s = stage.total
        name = f"{state.pipeline}.{stage.task}"
        models[name] = _Model(items, items, batches, stage.queued, queue_s + compute_s, queue_s, compute_s)
    return models


# -- families -------------------------------------------------------------------------------------------------------------

Family = TypeVar("Family", CounterMetricFamily, GaugeMetricFamily, UnknownMetricFamily)


def _fill(family: Family, rows: Rows) -> Family:
    for labels, value in rows:
        family.add_metric(labels, value)
    return family


def _counter(name: str, help: str, labels: Sequence[str], rows: Rows) -> Metric:
    return _fill(CounterMetricFamily(name, help, labels=labels), rows)


def _gauge(name: str, help: str, labels: Sequence[str], rows: Rows) -> Metric:
    return _fill(GaugeMetricFamily(name, help, labels=labels), rows)


def _histogram(name: str, help: str, labels: Sequence[str], rows: Iterable[tuple[Sequence[str], Histogram]]) -> Metric:
    family = HistogramMetricFamily(name, help, labels=labels)
    for values, histogram in rows:
        cumulative = accumulate(histogram.counts)
        bounds = [*(str(bound) for bound in BOUNDS_S), "+Inf"]
        family.add_metric(values, list(zip(bounds, cumulative, strict=True)), histogram.sum_s)
    return family
