"""Traces: spans made in different processes fit together, and all agree on which requests are sampled."""

from __future__ import annotations

import threading
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

pytest.importorskip("opentelemetry.sdk", reason="the extra [otel] is not installed")
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind
from opentelemetry.trace.status import StatusCode

from loki_rl.core.cluster import build
from loki_rl.core.effects import Effect, Send
from loki_rl.core.gateway import Gateway
from loki_rl.core.messages import GATEWAY, Abandoned, Arrived, Ended, Event, Execute, Ready, Result, Submit, router
from loki_rl.core.options import ClusterOptions
from loki_rl.core.pipeline import Latency, Pipeline, Task, Variant
from loki_rl.core.requests.items import size
from loki_rl.core.router import Router
from loki_rl.serving.gateway.client import Client
from loki_rl.serving.observe import trace_parents
from loki_rl.serving.observe.span_options import SpanOptions
from loki_rl.serving.observe.trace_parents import ContinuingGateway, Parents
from loki_rl.serving.observe.tracing import RequestTracer, StageTracer, Tracer
from loki_rl.serving.plane import Layout
from loki_rl.serving.process.launch import LaunchError, LocalPlane
from loki_rl.serving.transport.wire import TraceParent, TraceParents, decode_control, encode_control
from tests.serving.driving import held_port

ROW = {1: Latency(0.01, 0.01, 0.01), 4: Latency(0.02, 0.02, 0.02)}
PIPELINE = Pipeline(
    name="chain",
    slo_s=0.5,
    tasks=(
        Task("find", (Variant("only", 1.0, ROW, {"read": 2.0}),), entry=1.0),
        Task("read", (Variant("rough", 0.5, ROW), Variant("fine", 0.9, ROW)), parent="find"),
    ),
    leaf_weights={"read": 1.0},
)


class Traced:
    """Gateway and routers by hand, with a tracer each, as in processes of their own."""

    def __init__(self, ratio: float) -> None:
        cluster = ClusterOptions(PIPELINE, 2)
        self.actors = {address: build(address, cluster) for address in (GATEWAY, router(0), router(1))}
        self.exporters = {address: InMemorySpanExporter() for address in self.actors}
        self.parents = {address: Parents() for address in self.actors}
        gateway = self.actors[GATEWAY]
        assert isinstance(gateway, Gateway)
        self.continuing = ContinuingGateway(gateway, self._announce)
        self.tracers: dict[str, RequestTracer | StageTracer] = {}
        self._made: list[Tracer] = []
        for address, actor in self.actors.items():
            options = SpanOptions("http://x", ratio, plane=77)
            tracer = Tracer(options, PIPELINE, address, self.parents[address], self.exporters[address])
            self._made.append(tracer)
            if isinstance(actor, Gateway):
                self.tracers[address] = RequestTracer(tracer, actor)
            elif isinstance(actor, Router):
                self.tracers[address] = StageTracer(tracer, actor)

    def _announce(self, told: TraceParents) -> None:
        """To every process, as it arrives there."""
        for parents in self.parents.values():
            parents.add(decoded(told))

    def tell(self, address: str, event: Event, now: float) -> list[Effect]:
        actor = self.continuing if address == GATEWAY else self.actors[address]
        effects = actor.handle(event, now)
        self.tracers[address].record(event, effects, now)
        return effects

    def run(self, keys: list[int], now: float = 10.0) -> None:
        """Every request makes one item, which has two children; one worker serves each task."""
        sent = self.tell(GATEWAY, Arrived(keys, [0.0] * len(keys)), now)
        sent = self._stage(0, _submit(sent), now, 1)
        self._stage(1, _submit(sent), now + 0.1, 0)

    def _stage(self, task: int, submit: Submit, now: float, children: int) -> list[Effect]:
        told: list[Effect] = []
        effects = self.tell(router(task), submit, now)
        for serial in range(1, size(submit.families) + 1):
            effects += self.tell(router(task), Ready(task, 0, serial, 0, 1), now + 0.01)
        for batch in [e.message for e in effects if isinstance(e, Send) and isinstance(e.message, Execute)]:
            fanouts: list[tuple[int, ...]] = [(2,) if children else ()] * size(batch.families)
            told += self.tell(router(task), Result(task, 0, batch.batch, 0, fanouts, 0.03, ""), now + 0.05)
        for message in [e.message for e in told if isinstance(e, Send) and isinstance(e.message, Ended)]:
            self.tell(GATEWAY, message, now + 0.06)
        return told

    def spans(self) -> list[ReadableSpan]:
        for tracer in self._made:
            tracer.close()
        return [span for exporter in self.exporters.values() for span in exporter.get_finished_spans()]


def decoded(told: TraceParents) -> TraceParents:
    word = decode_control(memoryview(encode_control(told))[1:])
    assert isinstance(word, TraceParents)
    return word


def _submit(effects: list[Effect]) -> Submit:
    found = [e.message for e in effects if isinstance(e, Send) and isinstance(e.message, Submit)]
    return Submit([family for message in found for family in message.families])


def test_the_spans_of_a_request_are_one_tree() -> None:
    traced = Traced(1.0)
    traced.run([5])
    spans = traced.spans()
    assert sorted(span.name for span in spans) == ["chain", "find", "read", "read"]
    assert len({span.context.trace_id for span in spans}) == 1
    assert len({span.context.span_id for span in spans}) == 4
    root = next(span for span in spans if span.name == "chain")
    find = next(span for span in spans if span.name == "find")
    assert root.parent is None
    assert find.parent is not None
    assert find.parent.span_id == root.context.span_id
    for read in (span for span in spans if span.name == "read"):
        assert read.parent is not None
        assert read.parent.span_id == find.context.span_id


def test_a_span_tells_times_variant_and_outcome() -> None:
    traced = Traced(1.0)
    traced.run([5])
    spans = {span.name: span for span in traced.spans()}
    find, root = spans["find"], spans["chain"]
    assert find.attributes is not None
    assert find.attributes["loki.variant"] == "only"
    assert find.attributes["loki.queue_s"] == pytest.approx(0.01)
    assert find.attributes["loki.compute_s"] == pytest.approx(0.03)
    assert find.end_time is not None
    assert find.start_time is not None
    assert find.end_time - find.start_time == pytest.approx(50e6, rel=1e-3)
    assert root.attributes is not None
    assert (root.attributes["loki.outcome"], root.status.status_code) == ("ok", StatusCode.OK)


def test_a_request_that_did_not_end_well_is_an_error() -> None:
    traced = Traced(1.0)
    traced.tell(GATEWAY, Arrived([5], [0.0]), 10.0)
    traced.tell(GATEWAY, Abandoned([5]), 10.1)
    (span,) = traced.spans()
    assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, "cancelled by the client")


def test_a_sampled_request_is_sampled_in_every_process() -> None:
    traced = Traced(0.5)
    traced.run(list(range(60)))
    spans = traced.spans()
    of: dict[int, list[str]] = {}
    for span in spans:
        of.setdefault(span.context.trace_id, []).append(span.name)
    assert 15 < len(of) < 45
    assert all(sorted(names) == ["chain", "find", "read", "read"] for names in of.values())


CLIENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.mark.parametrize("more", ["00-{}-{}-01", "cc-{}-{}-03-what-comes-later"])
def test_a_request_goes_on_from_its_clients_trace(more: str) -> None:
    traced = Traced(0.0)
    traced.continuing.expect(5, more.format(*CLIENT))
    traced.run([4, 5])
    spans = traced.spans()
    assert sorted(span.name for span in spans) == ["chain", "find", "read", "read"]
    assert {f"{span.context.trace_id:032x}" for span in spans} == {CLIENT[0]}
    (root,) = (span for span in spans if span.name == "chain")
    assert root.parent is not None
    assert (f"{root.parent.span_id:016x}", root.parent.is_remote, root.kind) == (CLIENT[1], True, SpanKind.SERVER)
    (find,) = (span for span in spans if span.name == "find")
    assert find.parent is not None
    assert (find.parent.span_id, find.kind) == (root.context.span_id, SpanKind.INTERNAL)


def test_what_the_client_does_not_sample_is_not_sampled() -> None:
    traced = Traced(1.0)
    traced.continuing.expect(5, "00-{}-{}-00".format(*CLIENT))
    traced.run([5])
    assert traced.spans() == []


@pytest.mark.parametrize(
    "malformed",
    [
        "x",
        "00-{}-{}".format(*CLIENT),
        "00-{}-{}-01-more".format(*CLIENT),
        "ff-{}-{}-01".format(*CLIENT),
        f"00-{'0' * 32}-{CLIENT[1]}-01",
        f"00-{CLIENT[0]}-{'0' * 16}-01",
        f"00-{CLIENT[0].upper()}-{CLIENT[1]}-01",
    ],
)
def test_what_is_malformed_counts_as_absent(malformed: str) -> None:
    traced = Traced(1.0)
    traced.continuing.expect(5, malformed)
    traced.run([5])
    (root,) = (span for span in traced.spans() if span.name == "chain")
    assert root.parent is None
    assert f"{root.context.trace_id:032x}" != CLIENT[0]


def test_traces_of_clients_are_forgotten_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace_parents, "MOST", 3)
    parents, header = Parents(), "00-{}-{}-01".format(*CLIENT)
    for number in range(5):
        parents.add(TraceParents([TraceParent(number, 1.0, header)]))
    assert [parents.get(number, 1.0) is None for number in range(5)] == [True, True, False, False, False]
    # Request numbers begin anew with every run.
    assert parents.get(4, 2.0) is None


class Collector:
    """An OTLP collector: keeps name, trace and parent of the spans that came."""

    def __init__(self) -> None:
        seen = self.seen = list[tuple[str, bytes, bytes]]()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                    spans = [span for scope in resource.scope_spans for span in scope.spans]
                    seen.extend((span.name, span.trace_id, span.parent_span_id) for span in spans)
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def collector() -> Iterator[Collector]:
    made = Collector()
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.mark.parametrize("layout", ["spread", "compact"])
def test_a_plane_sends_its_traces_to_a_collector(collector: Collector, layout: Layout) -> None:
    options = ClusterOptions(PIPELINE, 2)
    traces = SpanOptions(f"http://127.0.0.1:{collector.server.server_address[1]}")
    port = held_port()
    told: dict[str, Any] = {"policy": "static", "policy_options": {"servers": 2, "demand_rps": 5.0}, "layout": layout}
    with (
        LocalPlane(options, traces=traces, http_port=port, **told) as plane,
        Client(plane.front) as client,
    ):
        client.wait_ready()
        served = [client.infer() for _ in range(3)]
        headers = {"traceparent": "00-{}-{}-01".format(*CLIENT)}
        asked = urllib.request.Request(f"http://127.0.0.1:{port}/v2/models/chain/infer", b'{"inputs": []}', headers)
        with urllib.request.urlopen(asked, timeout=20) as answer:
            assert answer.status == 200
    names = [name for name, _, _ in collector.seen]
    assert (names.count("chain"), names.count("find")) == (4, 4)
    own = [(name, parent) for name, trace, parent in collector.seen if trace.hex() == CLIENT[0]]
    assert dict(own)["chain"].hex() == CLIENT[1]
    assert sorted({name for name, _ in own}) == ["chain", "find", "read"]
    assert names.count("read") == sum(len(answer.served) for answer in served) + len(own) - 2
    assert len({trace for _, trace, _ in collector.seen}) == 4


@pytest.mark.parametrize(
    ("traces", "sentence"),
    [(SpanOptions("collector:4318"), "not to 'collector:4318'"), (SpanOptions("http://x", 1.5), "must be 0 to 1, not 1.5")],
)
def test_what_cannot_be_traced_is_told_at_the_start(traces: SpanOptions, sentence: str) -> None:
    with pytest.raises(LaunchError, match=sentence), LocalPlane(ClusterOptions(PIPELINE, 2), traces=traces):
        pass
