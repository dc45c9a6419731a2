"""A scripted gateway behind a real ClientSocket, for tests of clients. Owns sockets and a thread; schedules nothing."""

from __future__ import annotations

import heapq
import threading
import time
from collections.abc import Callable, Iterator
from math import ceil, floor

import msgspec
import numpy as np
import pytest
import zmq
from msgspec import Struct
from msgspec.structs import replace

from loki_rl.core.effects import Reply
from loki_rl.core.messages import Outcome
from loki_rl.core.options import ClusterOptions
from loki_rl.core.pipeline import Latency, Pipeline, Task, Variant
from loki_rl.core.plan import Drift, Exclusion, Placement, Plan
from loki_rl.core.requests.items import Served
from loki_rl.core.requests.ledger import Tally
from loki_rl.files.config import load_pipeline
from loki_rl.serving.gateway.client_socket import (
    ClientSocket,
    Entered,
    FrontEvent,
    Question,
    Withdrawn,
)
from loki_rl.serving.gateway.schema import describe
from loki_rl.serving.state import Control, PlaneState, Requests, SizeCount, Stage, Trouble, VariantCount, WorkerState
from loki_rl.serving.transport import protocol
from loki_rl.serving.transport.wire import WireError, pack, unpack
from tests.reading.fetched import fonts as fonts
from tests.reading.fetched import reading as reading
from tests.reading.fetched import repository as repository
from tests.serving.doubling import doubling as doubling
from tests.serving.driving import eventually, patient
from tests.serving.security.certificates import authority as authority
from tests.serving.security.certificates import stranger as stranger
from tests.serving.site import NOT_READY, Site

ROW = {1: Latency(0.001, 0.001, 0.001)}
PIPELINE = Pipeline(
    name="reading",
    slo_s=0.5,
    tasks=(
        Task("find", (Variant("small", 0.8, ROW, {"read": 2.0}), Variant("big", 1.0, ROW, {"read": 2.0})), entry=1.0),
        Task("read", (Variant("fast", 0.5, ROW), Variant("slow", 1.0, ROW)), parent="find"),
    ),
    leaf_weights={"read": 1.0},
)


def ten_requests(ready: bool = True) -> PlaneState:
    """A plane that has answered ten requests: nine in time, one dropped at the second stage."""
    found, read = VariantCount(items=10), VariantCount(items=18)
    for count, seconds, size in ((found, 0.010, 1), (read, 0.030, 2)):
        batches = count.items // size
        for _ in range(batches):
            count.compute.add(seconds)
        for _ in range(count.items):
            count.queue.add(0.002)
        count.sizes[size] = SizeCount(batches, seconds * batches)
    requests = Requests(arrivals=10, outcomes=[9, 0, 1, 0, 0, 0], accuracy_sum=6.75, served={"big/slow": 9, "big/fast": 9})
    for _ in range(9):
        requests.latency.add(0.048)
    plan = Plan(
        "hardware", (Placement("find", "big", 1, 1), Placement("read", "slow", 2, 1)), 2, 0.75, 1.0, 12.0, 20.0, {}, {}
    )
    workers = [WorkerState(0, "find/big", 1, "", 1), WorkerState(1, "read/slow", 2, "read/fast", 2)]
    stages = [
        Stage("find", 0, 0.0, {"big": 1}, {}, {"big": found}),
        Stage("read", 3, 0.045, {"slow": 1}, {"dropped": 2}, {"slow": read}),
    ]
    drift = [Drift("find", "big", "", 1.4, {"read": 5.2})]
    excluded = [Exclusion("read", "old", "", "there is no model old/1/model.onnx")]
    control = Control(plan, 12.0, workers, ["worker 1: out of memory"], drift, excluded)
    troubles = [Trouble("gateway", "journal", 2, 48.0, "the journal cannot be written and ends here")]
    state = PlaneState("reading", "onnx", 0.5, 1.0, 2, ready, 60.0, 1, 2, requests, stages, control)
    return replace(state, troubles=troubles)


class Ending(Struct):
    """How the scripted gateway ends a request; leaves are served by big/slow, big/fast, big/slow ..."""

    outcome: Outcome = Outcome.OK
    leaves: int = 2
    missing: int = 0
    delay_s: float = 0.0
    reason: str = ""
    retry_s: float = 0.0


def check_picture(frame: zmq.Frame | None) -> str | None:
    """What an adapter would say: one row of bytes, or pixels."""
    try:
        array = np.empty(0) if frame is None else unpack(frame)
    except WireError as error:
        return str(error)
    if frame is None:
        return "a picture is needed"
    return None if array.dtype == np.uint8 and array.ndim in (1, 3) else "a picture is UINT8 [n] or [height, width, 3]"


def check_nothing(_frame: zmq.Frame | None) -> str | None:
    return None


class Responder:
    """`script` decides how each request ends (None: it is left open). Everything seen is recorded."""

    def __init__(self, endpoint: str = "tcp://127.0.0.1:0", engine: str = "onnx", traced: bool = False) -> None:
        self.reached = threading.Condition()
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        emulated = engine == "emulated"
        input = protocol.Tensor("input" if emulated else "image", "BYTES", (1,), optional=emulated)
        described = describe(PIPELINE, engine, input, protocol.Tensor("path" if emulated else "text", "BYTES", (-1,)))
        described = replace(described, traced=traced)
        self.front = ClientSocket(self.context, endpoint, PIPELINE, described, check_nothing if emulated else check_picture)
        self.renew()
        self.endpoint = self.front.socket.getsockopt_string(zmq.LAST_ENDPOINT)
        self._emulated = emulated
        self._stop = self.context.socket(zmq.PAIR)
        self._stopped = self.context.socket(zmq.PAIR)
        self._stop.bind("inproc://stop")
        self._stopped.connect("inproc://stop")
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def renew(self) -> None:
        """As if nobody had been here; what was asked and left open stays open."""
        with self.reached:
            self.script: Callable[[Entered], Ending | None] = lambda _: Ending()
            self.entered: list[Entered] = []
            self.withdrawn: list[int] = []
            self.tally = Tally()
            self.silent_ledgers = 0  # ledgers still to be given without the servers of their seconds
            self.origin = 0.0
            self.front.ready = True
            self.front.leaving = False
            self._due: list[tuple[float, int, Ending]] = []
            self._seconds: dict[int, int] = {}

    def close(self) -> None:
        self._stop.send(b"")
        self._thread.join()
        for socket in (self._stop, self._stopped):
            socket.close(linger=0)
        self.front.close()
        self.context.term()

    def wait_until(self, condition: Callable[[], bool]) -> None:
        with self.reached:
            assert self.reached.wait_for(condition, timeout=60), "the gateway never got there"

    def _serve(self) -> None:
        poller = zmq.Poller()
        poller.register(self.front.socket, zmq.POLLIN)
        poller.register(self._stopped, zmq.POLLIN)
        while True:
            left = max(0.0, self._due[0][0] - time.monotonic()) if self._due else 1.0
            if any(socket is self._stopped for socket, _ in poller.poll(ceil(1000 * left))):
                return
            with self.reached:
                for event in self.front.receive(64):
                    self._handle(event)
                while self._due and self._due[0][0] <= time.monotonic():
                    _, key, ending = heapq.heappop(self._due)
                    self._end(key, ending)
                self.reached.notify_all()

    def _answer(
        self, request: protocol.BeginRun | protocol.ReadLedger | protocol.ReadReadiness | protocol.ReadState
    ) -> protocol.Response:
        match request:
            case protocol.BeginRun(id):
                self.tally, self.origin = Tally(), time.monotonic()
                return protocol.Begun(id, self.origin)
            case protocol.ReadLedger(id):
                for second in self.tally.seconds.values():
                    second.servers = int(self.silent_ledgers <= 0)
                self.silent_ledgers -= 1
                ledger = protocol.RunLedger(self.tally, PIPELINE.servers, PIPELINE.best_accuracy)
                return protocol.LedgerRead(id, msgspec.json.encode(ledger))
            case protocol.ReadReadiness(id):
                return protocol.ReadinessRead(id, "" if self.front.ready else NOT_READY, self.front.leaving)
            case protocol.ReadState(id):
                return protocol.StateRead(id, ten_requests(self.front.ready))

    def _handle(self, event: FrontEvent) -> None:
        if isinstance(event, Question):
            self.front.answer(event, self._answer(event.request))
        elif isinstance(event, Withdrawn):
            if event.key not in self._seconds:
                return  # of before it was renewed
            self.withdrawn.append(event.key)
            self._end(event.key, Ending(Outcome.CANCELLED, leaves=0, reason="cancelled by the client"))
        else:
            self._enter(event)

    def _enter(self, event: Entered) -> None:
        self.entered.append(event)
        self._seconds[event.key] = floor(time.monotonic() - self.origin)
        self.tally.arrive(self._seconds[event.key])
        ending = self.script(event)
        if ending is not None:
            heapq.heappush(self._due, (time.monotonic() + ending.delay_s, event.key, ending))

    def _end(self, key: int, ending: Ending) -> None:
        paths = [PIPELINE.extend(PIPELINE.extend(0, 1), (leaf + 1) % 2) for leaf in range(ending.leaves)]
        accuracy = 0.75 if ending.outcome is Outcome.OK else 0.0
        leaves = [Served(1, leaf, path, 1) for leaf, path in enumerate(paths)]
        self.tally.close(self._seconds[key], ending.outcome, ending.delay_s, accuracy)
        self.tally.executions += 1 + ending.leaves
        how = (ending.missing, ending.reason, None, ending.retry_s)
        reply = Reply(key, 0, ending.outcome, ending.delay_s, accuracy, leaves, *how)
        texts = [] if self._emulated else [msgspec.json.encode({"text": f"line {leaf}"}) for leaf in range(len(leaves))]
        self.front.reply(reply, [pack(np.frombuffer(text, np.uint8)) for text in texts])


@pytest.fixture(scope="session")
def scripted() -> Iterator[Responder]:
    running = Responder()
    yield running
    running.close()


@pytest.fixture
def responder(scripted: Responder) -> Responder:
    """A gateway of pipeline 'reading' with an engine that returns texts; one for all tests, to each as if it were new."""
    scripted.renew()
    return scripted


@pytest.fixture(scope="session")
def web(scripted: Responder) -> Iterator[Site]:
    running = Site(scripted.endpoint)
    yield running
    running.close()


@pytest.fixture
def site(web: Site, responder: Responder) -> Site:  # noqa: ARG001  (what is behind it is new)
    """The responder behind HTTP, one server for all tests: to stop one takes longer than most of them."""
    eventually(lambda: web.ask("GET", "/v2/health/ready")[0] == 200, "the gateway is never ready")
    return web


@pytest.fixture
def emulated() -> Iterator[Responder]:
    """The same pipeline without payloads."""
    running = Responder(engine="emulated")
    yield running
    running.close()


@pytest.fixture
def traced() -> Iterator[Responder]:
    """As `emulated`, of a plane that is traced."""
    running = Responder(engine="emulated", traced=True)
    yield running
    running.close()


@pytest.fixture
def ending() -> type[Ending]:
    return Ending


@pytest.fixture(name="plane_state")
def plane_state_fixture() -> PlaneState:
    return ten_requests()


@pytest.fixture(scope="session")
def quick_traffic() -> ClusterOptions:
    """Six servers, loads in no time and an SLO that a busy machine meets."""
    return ClusterOptions(patient(load_pipeline("traffic").pipeline), 6)
