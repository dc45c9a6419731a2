"""Nodes of a whole plane in one process: payloads travel with their items, and none is left at the end."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zmq
from msgspec.structs import replace

from loki_rl.core.messages import CONTROLLER, GATEWAY, Drain, Event, Outcome, router, worker
from loki_rl.core.options import ClusterOptions
from loki_rl.core.pipeline import Latency, Pipeline, Task, Variant
from loki_rl.core.plan import Placement, Plan, Snapshot
from loki_rl.serving.engines.adapter import Array, Produced
from loki_rl.serving.engines.engine import EngineError
from loki_rl.serving.gateway.client import Client, ClientError, Inference
from loki_rl.serving.gateway.schema import describe
from loki_rl.serving.plane import LAUNCHER, EngineKind, NodeSpec, PlaneFile, pack_options
from loki_rl.serving.process import heartbeat
from loki_rl.serving.process import node as node_module
from loki_rl.serving.process.heartbeat import LOAD_PATIENCE_S, SOLVE_PATIENCE_S
from loki_rl.serving.process.node import Node
from loki_rl.serving.transport import shared_memory
from loki_rl.serving.transport.mailbox import Mailbox
from loki_rl.serving.transport.multipart import Context
from loki_rl.serving.transport.protocol import Tensor
from loki_rl.serving.transport.wire import Alive, Bye, ControlWord, Idle, Letter, Up, Warm
from tests.serving.transport.test_shared_memory import in_use

MS = 0.001
FAST = {n: Latency(n * MS, n * MS, 2 * n * MS) for n in (1, 2, 4)}
PIPELINE = Pipeline(
    name="tiny",
    slo_s=2.0,
    tasks=(
        Task("cut", (Variant("only", 1.0, FAST, {"sum": 2.0, "size": 1.0}),), entry=1.0),
        Task("sum", (Variant("exact", 1.0, FAST), Variant("rough", 0.5, FAST)), parent="cut"),
        Task("size", (Variant("any", 1.0, FAST),), parent="cut"),
    ),
    leaf_weights={"sum": 0.5, "size": 0.5},
)
PLACEMENTS = (Placement("cut", "only", 4, 1), Placement("sum", "exact", 4, 1), Placement("size", "any", 4, 1))
PLAN = Plan("hardware", PLACEMENTS, 3, 1.0, 1.0, 1.0, 100.0, {"cut": 0.5, "sum": 1.0, "size": 1.0}, {})


ARRAY = Tensor("array", "INT32", (-1, 2), optional=True)


class Fixed:
    """A policy with one plan."""

    def decide(self, snapshot: Snapshot) -> Plan:
        assert len(snapshot.servers) == 3
        return PLAN


def make_fixed(name: str, cluster: ClusterOptions, options: dict[str, Any]) -> Fixed:
    assert (name, cluster.pipeline.name, options) == ("fixed", "tiny", {"a": 1})
    return Fixed()


class Arithmetic:
    """An engine that cuts an array into rows for `sum` and hands all of it to `size`."""

    def __init__(self) -> None:
        self.resident: set[tuple[str, str]] = set()

    def load(self, task: str, variant: str) -> float:
        self.resident.add((task, variant))
        return 0.0

    def unload(self, task: str, variant: str) -> None:
        self.resident.discard((task, variant))

    def look(self, _task: str, _variant: str, _count: int, _budget_s: float) -> list[float]:
        raise AssertionError("nobody knows how long its samples take")

    def run(self, task: str, variant: str, payloads: Sequence[Array]) -> list[Produced]:
        assert (task, variant) in self.resident
        if task == "cut":
            return [Produced(children=(list(payload), [payload])) for payload in payloads]
        if any(payload.size and payload.max() > 90 for payload in payloads):
            raise EngineError("too large a number")
        return [Produced(output=payload.sum() if task == "sum" else np.array(payload.shape)) for payload in payloads]


class Plane:
    """All nodes, each in a thread of its own, and the launcher's end of their words."""

    def __init__(self, context: Context, folder: Path, engine: EngineKind, pipeline: Pipeline, memory: str) -> None:
        names = [GATEWAY, CONTROLLER, *map(router, range(3)), *map(worker, range(3))]
        specs = tuple(NodeSpec(name.replace(":", "-"), (name,)) for name in names)
        self.front = f"ipc://{folder}/front"
        PlaneFile(
            pack_options(ClusterOptions(pipeline, servers=3)), specs, self.front, engine, memory=memory, policy="fixed",
            policy_factory="here:make_fixed", policy_options={"a": 1}, check=True,
        ).write(folder)  # fmt: skip
        plane = PlaneFile.read(folder)
        self.mailbox = Mailbox(context, LAUNCHER, plane.endpoints(folder))
        self.words: list[ControlWord] = []
        self.nodes = [Node(plane, spec.name, folder, context) for spec in specs]
        self.threads = [threading.Thread(target=self._live, args=(node,), name=node.spec.name) for node in self.nodes]
        for thread in self.threads:
            thread.start()

    @staticmethod
    def _live(node: Node) -> None:
        node.run()
        node.close()

    def hear(self, done: Callable[[list[ControlWord]], object]) -> None:
        """Wait for words of the nodes, which always say that they live."""
        deadline = time.monotonic() + 60
        while not done(self.words):
            assert self.mailbox.inbox.poll(10_000), f"it never came; {self.words}"
            assert time.monotonic() < deadline, f"it never came; {self.words}"
            self.words += self.mailbox.take(64)[1]

    def tell(self, address: str, event: Event) -> None:
        self.mailbox.post(address, Letter(address, event, ()), ())
        self.mailbox.flush()

    def close(self) -> list[Bye]:
        for node in self.nodes:
            node.driver.stop()
        for thread in self.threads:
            thread.join(10)
        self.hear(lambda words: sum(isinstance(word, Bye) for word in words) == len(self.nodes))
        self.mailbox.close()
        return [word for word in self.words if isinstance(word, Bye)]


Start = Callable[..., Plane]


@pytest.fixture(params=["sent", "shared"])
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[Start]:
    """Closing asks of every node: no fault, no stray, and no frame left, nor any in shared memory, where all are if they
    are not sent."""
    memory = tmp_path / "memory"
    memory.mkdir()
    shared = str(memory) if request.param == "shared" else ""
    monkeypatch.setattr(shared_memory, "LEAST_BYTES", 0)
    monkeypatch.setattr(node_module, "resolve", lambda entry: {"here:make_fixed": make_fixed}[entry])
    monkeypatch.setattr(node_module, "make_engine", lambda *_: Arithmetic())
    monkeypatch.setattr(node_module, "payload_check", lambda _: lambda _: None)
    made_of = lambda plane: replace(describe(plane.options.pipeline, plane.engine, ARRAY, ARRAY), memory=shared)  # noqa: E731
    monkeypatch.setattr(node_module, "described", made_of)
    planes: list[Plane] = []
    with zmq.Context() as context:

        def make(engine: EngineKind = "onnx", pipeline: Pipeline = PIPELINE) -> Plane:
            planes.append(Plane(context, tmp_path, engine, pipeline, shared))
            planes[-1].hear(lambda words: Warm() in words)
            return planes[-1]

        yield make
        for plane in planes:
            assert [(bye.frames, bye.faults, bye.strays, bye.malformed) for bye in plane.close()] == [(0, 0, 0, 0)] * 8
            assert in_use(memory) == 0


def answers(client: Client, count: int) -> list[Inference]:
    """The answers to all requests under way, in the order of the requests."""
    found: list[Inference] = []
    while len(found) < count:
        more = client.poll(10.0)
        assert more, "no answer"
        found += [answer for answer in more if isinstance(answer, Inference)]
    return sorted(found, key=lambda answer: answer.id)


def rows(count: int, number: int) -> Array:
    return np.full((count, 2), number, dtype=np.int32)


def test_payloads_travel_with_their_items_and_outputs_come_back_in_order(start: Start) -> None:
    plane = start()
    sent = [rows(count, number) for number in range(30) for count in (1, 2, 3)]
    with Client(plane.front) as client:
        for array in sent:
            client.submit(array)
        for array, answer in zip(sent, answers(client, len(sent)), strict=True):
            assert (answer.outcome, answer.missing) == ("ok", 0)
            sums = [int(output) for output in answer.outputs if output.ndim == 0]
            sizes = [output.tolist() for output in answer.outputs if output.ndim == 1]
            assert sums == [2 * int(array[0, 0]) for _ in array]
            assert sizes == [list(array.shape)]


def test_a_failing_model_fails_its_requests_and_leaves_no_frame(start: Start) -> None:
    plane = start()
    with Client(plane.front) as client:
        client.submit(rows(2, 91))
        assert [answer.outcome for answer in answers(client, 1)] == ["failed"]
        client.submit(rows(2, 5))
        assert [answer.outcome for answer in answers(client, 1)] == ["ok"]


def test_late_and_cancelled_requests_leave_no_frame(start: Start) -> None:
    plane = start()
    with Client(plane.front) as client:
        for number in range(40):
            client.submit(rows(20, number), timeout_s=0.03)
        client.cancel(client.submit(rows(1, 1)))
        found = answers(client, 41)
        assert {answer.outcome for answer in found[:40]} <= {"ok", "late", "dropped"}
        assert found[40].outcome in {"cancelled", "ok"}
        assert client.infer(rows(1, 1)).outcome == "ok"


def test_an_emulated_plane_answers_without_payloads_and_counts_in_its_ledger(start: Start) -> None:
    plane = start("emulated")
    with Client(plane.front) as client:
        assert client.begin_run() <= time.monotonic()
        for _ in range(50):
            client.submit()
        found = answers(client, 50)
        assert [answer.outcome for answer in found] == ["ok"] * 50
        assert not any(answer.outputs for answer in found)
        assert client.ledger().tally.arrivals == 50


def test_a_plane_keeps_its_latest_seconds_and_the_sum_of_all(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loki_rl.serving.gateway.ledger_keeper.KEEP_S", 1)
    plane = start("emulated")
    with Client(plane.front) as client:
        client.begin_run()
        assert client.infer().outcome == "ok"
        deadline = time.monotonic() + 30
        while (found := client.ledger().tally).earlier_s < 2:
            assert time.monotonic() < deadline, found
        assert len(found.seconds) <= 2
        assert (found.arrivals, found.outcome(Outcome.OK)) == (1, 1)
        found.validate()


def test_drain_lets_requests_finish_refuses_new_ones_and_says_so(start: Start) -> None:
    slow = {n: Latency(0.2, 0.2, 0.2) for n in (1, 2, 4)}
    cut = replace(PIPELINE.tasks[0], variants=(replace(PIPELINE.tasks[0].variants[0], latency=slow),))
    plane = start("emulated", replace(PIPELINE, tasks=(cut, *PIPELINE.tasks[1:])))
    with Client(plane.front) as client:
        client.submit()
        client.ledger()  # it has been read
        plane.tell(GATEWAY, Drain())
        plane.hear(lambda words: Idle() in words)
        assert [answer.outcome for answer in answers(client, 1)] == ["ok"]
        assert client.infer().outcome == "rejected"


def test_a_node_says_that_it_may_be_silent_before_a_model_is_loaded_or_a_plan_made_and_not_for_longer(start: Start) -> None:
    plane = start("onnx")
    names = {node.spec.name for node in plane.nodes}
    said = [word for word in plane.words if isinstance(word, Alive)]
    patience = {name: max(word.patience_s for word in said if word.node == name) for name in names}
    assert patience.pop("controller") == SOLVE_PATIENCE_S
    assert [patience.pop(f"worker-{number}") for number in range(3)] == [LOAD_PATIENCE_S] * 3
    assert set(patience.values()) == {0.0}
    plane.words.clear()
    plane.hear(lambda words: {word.node for word in words if isinstance(word, Alive) and not word.patience_s} == names)


def test_a_node_may_be_silent_no_longer_as_soon_as_its_model_is_loaded_or_its_plan_made(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not with its next sign of life: one that stops before that would be missed for minutes."""
    monkeypatch.setattr(heartbeat, "BEAT_S", 3600.0)
    plane = start("onnx")
    for name in ("controller", *(f"worker-{number}" for number in range(3))):
        plane.hear(lambda words, name=name: _patience(words, name)[-1:] == [0.0])  # type: ignore[misc]
        assert max(_patience(plane.words, name)) > 0.0


def _patience(words: list[ControlWord], name: str) -> list[float]:
    return [word.patience_s for word in words if isinstance(word, Alive) and word.node == name]


def test_once_the_first_plan_is_warm_clients_are_told_ready_and_time_counts(start: Start) -> None:
    plane = start("emulated")
    assert {word.node for word in plane.words if isinstance(word, Up)} == {node.spec.name for node in plane.nodes}
    with Client(plane.front) as client:
        assert client.describe().ready
        client.infer()
        assert client.ledger().tally.arrivals == 1


@pytest.mark.parametrize("origin", [math.nan, math.inf, -math.inf, -1e9, 1e300])
def test_a_run_that_cannot_begin_then_is_refused_and_the_plane_serves_on(start: Start, origin: float) -> None:
    plane = start("emulated")
    with Client(plane.front) as client:
        with pytest.raises(ClientError, match="a run begins within 3600 s of now"):
            client.begin_run(origin)
        assert client.infer().outcome == "ok"
        began = time.monotonic() - 100.0
        assert client.begin_run(began) == began
        assert client.infer().outcome == "ok"
        assert client.ledger().tally.arrivals == 1
