"""Traces of requests through their stages, by OpenTelemetry: one span a request, below it one a stage that an item passed.
Imported only where traces are asked for.

No id travels: every process derives those of a request from what it knows anyway (plane, request number, arrival time, item
id), so that spans made in different processes fit together, and all agree on which requests are sampled. Only what a client
says of its own trace is told (trace_parents.py); whether that is sampled decides then.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from msgspec import Struct
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.trace import SpanContext, SpanKind, TraceFlags
from opentelemetry.trace.status import Status, StatusCode

from loki_rl.core.draws import ROOT_SPAN, SAMPLE, SPAN, TRACE_HIGH, TRACE_LOW, uniform
from loki_rl.core.effects import Effect, Reply, Send
from loki_rl.core.gateway import Gateway
from loki_rl.core.messages import Arrived, Ended, Event, Execute, Outcome, Result, Submit
from loki_rl.core.pipeline import PATH_BITS, Pipeline, root_of
from loki_rl.core.requests.items import Family, members
from loki_rl.core.router import Router
from loki_rl.serving.clock import clock
from loki_rl.serving.observe.names import PathNames
from loki_rl.serving.observe.span_options import SpanOptions
from loki_rl.serving.observe.trace_parents import Parents
from loki_rl.serving.transport.driver import Meter

_WORD = 1 << 53
MICRO = 1_000_000


class Passing(Struct):
    """An item on its way through a stage. t0: arrival of its request; entered, given [s]: when it came and when a worker got
    it; size: of its batch."""

    t0: float
    entered: float
    given: float = 0.0
    variant: int = -1
    size: int = 0


class Tracer:
    """Makes spans of one process. parents: traces of clients. exporter: where spans go (None: OTLP over HTTP to the endpoint
    of the options)."""

    def __init__(
        self, options: SpanOptions, pipeline: Pipeline, process: str, parents: Parents, exporter: SpanExporter | None = None
    ) -> None:
        self.pipeline = pipeline
        self.parents = parents
        self._options = options
        resource = Resource.create(
            {"service.name": "loki-rl", "service.instance.id": process, "loki.pipeline": pipeline.name}
        )
        self._resource = resource
        self._processor: SpanProcessor = BatchSpanProcessor(exporter or _otlp(options.endpoint))
        # Spans carry wall time, actors the plane's.
        self._epoch_ns = time.time_ns() - round(1e9 * clock())

    def sampled(self, root: int, t0: float) -> bool:
        parent = self.parents.get(root, t0)
        if parent is not None:
            return parent.trace_flags.sampled
        return uniform(self._seed(t0), root, SAMPLE) < self._options.ratio

    def request_context(self, root: int, t0: float) -> SpanContext:
        return self._context(root, t0, 0)

    def item_context(self, item: int, t0: float) -> SpanContext:
        return self._context(root_of(item), t0, item)

    def parent_context(self, item: int, task: int, t0: float) -> SpanContext:
        """Of the item that made this one, or of the request."""
        if self.pipeline.parents[task] < 0:
            return self.request_context(root_of(item), t0)
        above = self.pipeline.shifts[task] + self.pipeline.child_bits
        return self.item_context(item >> above << above, t0)

    def emit(
        self,
        name: str,
        context: SpanContext,
        parent: SpanContext | None,
        start: float,
        end: float,
        attributes: dict[str, str | int | float],
        failed: str = "",
    ) -> None:
        span = ReadableSpan(
            name,
            context=context,
            parent=parent,
            resource=self._resource,
            attributes=attributes,
            kind=SpanKind.SERVER if parent is None or parent.is_remote else SpanKind.INTERNAL,
            status=Status(StatusCode.ERROR, failed) if failed else Status(StatusCode.OK),
            start_time=self._nanoseconds(start),
            end_time=self._nanoseconds(end),
        )
        self._processor.on_end(span)

    def close(self) -> None:
        """Hand over what is left; an endpoint that is not there is given up on."""
        self._processor.force_flush(1000)
        self._processor.shutdown()

    def _context(self, root: int, t0: float, item: int) -> SpanContext:
        seed, parent = self._seed(t0), self.parents.get(root, t0)
        trace = _trace_id(seed, root) if parent is None else parent.trace_id
        span = int((uniform(seed, item, SPAN) if item else uniform(seed, root, ROOT_SPAN)) * _WORD) | 1
        return SpanContext(trace, span, is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED))

    def _seed(self, t0: float) -> int:
        """Request numbers begin anew with every run, arrival times do not."""
        return self._options.plane ^ round(t0 * MICRO)

    def _nanoseconds(self, at: float) -> int:
        return round(at * 1e9) + self._epoch_ns


def _trace_id(seed: int, root: int) -> int:
    return int(uniform(seed, root, TRACE_HIGH) * _WORD) << 64 | int(uniform(seed, root, TRACE_LOW) * _WORD) | 1


class StageTracer:
    """Spans of the items of one task."""

    def __init__(self, tracer: Tracer, router: Router) -> None:
        self._tracer = tracer
        self._task = router.task
        task = router.pipeline.tasks[router.task]
        self._name = task.name
        self._variants = [variant.name for variant in task.variants]
        self._passing: dict[int, Passing] = {}

    def record(self, event: Event, effects: list[Effect], now: float) -> None:
        if type(event) is Submit:
            self._enter(event.families, now)
        if self._passing:
            for effect in effects:
                if type(effect) is Send:
                    message = effect.message
                    if type(message) is Execute:
                        self._give(message, now)
                    elif type(message) is Ended:
                        self._end(message, event.seconds if type(event) is Result else 0.0, now)

    def _enter(self, families: Sequence[Family], now: float) -> None:
        last, sampled = -1, False
        for family in families:
            root = family.id >> PATH_BITS
            if root != last:  # the children of one request come together
                last, sampled = root, self._tracer.sampled(root, family.t0)
            if sampled:
                for id in self._tracer.pipeline.members(self._task, family.id, family.count):
                    self._passing.setdefault(id, Passing(family.t0, now))

    def _give(self, batch: Execute, now: float) -> None:
        items = members(self._tracer.pipeline, self._task, batch.families)
        for id in items:
            passing = self._passing.get(id)
            if passing is not None:
                passing.given, passing.variant, passing.size = now, batch.variant, len(items)

    def _end(self, settled: Ended, seconds: float, now: float) -> None:
        outcome = Outcome(settled.outcome).name.lower()
        for id in members(self._tracer.pipeline, self._task, settled.families):
            passing = self._passing.pop(id, None)
            if passing is None:
                continue
            attributes: dict[str, str | int | float] = {"loki.outcome": outcome, "loki.item": id}
            if passing.variant >= 0:
                attributes |= {
                    "loki.variant": self._variants[passing.variant],
                    "loki.batch_size": passing.size,
                    "loki.queue_s": passing.given - passing.entered,
                    "loki.compute_s": seconds,
                }
            tracer, t0 = self._tracer, passing.t0
            parent = tracer.parent_context(id, self._task, t0)
            failed = "" if settled.outcome is Outcome.OK else outcome
            tracer.emit(self._name, tracer.item_context(id, t0), parent, passing.entered, now, attributes, failed)


class RequestTracer:
    """Spans of whole requests. open: request -> when it arrived, of those sampled."""

    def __init__(self, tracer: Tracer, gateway: Gateway) -> None:
        self._tracer = tracer
        self._gateway = gateway
        self._names = PathNames(gateway.pipeline)
        self._open: dict[int, float] = {}

    def record(self, event: Event, effects: list[Effect], now: float) -> None:
        if type(event) is Arrived:
            for key in event.keys:
                root = self._gateway.by_key.get(key)
                if root is not None and self._tracer.sampled(root.number, root.t0):
                    self._open[root.number] = root.t0
        if self._open:
            for effect in effects:
                if type(effect) is Reply and effect.root in self._open:
                    self._end(effect, self._open.pop(effect.root), now)

    def _end(self, reply: Reply, t0: float, now: float) -> None:
        outcome = Outcome(reply.outcome).name.lower()
        attributes: dict[str, str | int | float] = {
            "loki.outcome": outcome,
            "loki.request": reply.root,
            "loki.accuracy": reply.accuracy,
            "loki.missing": reply.missing,
            "loki.served": ",".join("/".join(path) for path in self._names.served(reply)),
        }
        context = self._tracer.request_context(reply.root, t0)
        name = self._gateway.pipeline.name
        parent = self._tracer.parents.get(reply.root, t0)
        self._tracer.emit(name, context, parent, t0, now, attributes, "" if reply.outcome is Outcome.OK else reply.reason)


class Both:
    """Two that record the same."""

    def __init__(self, *recorders: Meter) -> None:
        self._records = [recorder.record for recorder in recorders]

    def record(self, event: Event, effects: list[Effect], now: float) -> None:
        for record in self._records:
            record(event, effects, now)


def _otlp(endpoint: str) -> SpanExporter:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    return OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces", timeout=2)
