"""One process of a plane: its actors, and what each needs to act."""

from __future__ import annotations

import argparse
import contextlib
import gc
import logging
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import cast

import zmq

from loki_rl.control.compiling import compiling
from loki_rl.core.cluster import addresses, build
from loki_rl.core.controller import Controller
from loki_rl.core.effects import Effect, Kill, Load, Solve
from loki_rl.core.gateway import Gateway
from loki_rl.core.journal import Recorder
from loki_rl.core.messages import CONTROLLER, GATEWAY
from loki_rl.core.router import Router
from loki_rl.core.worker import PARKED, Worker
from loki_rl.files.config import ConfigError
from loki_rl.serving.clock import clock
from loki_rl.serving.controlling.control_log import ControlLog
from loki_rl.serving.controlling.planner import PlannerThread
from loki_rl.serving.engines.adapter import AdapterError
from loki_rl.serving.engines.emulated import EmulatedEngine
from loki_rl.serving.engines.engine import Engine, EngineError
from loki_rl.serving.engines.engine_factory import make_engine
from loki_rl.serving.engines.threaded import ThreadedEngine
from loki_rl.serving.gateway.client_socket import ClientSocket
from loki_rl.serving.gateway.departures import Departures
from loki_rl.serving.gateway.gateway_adapter import GatewayAdapter
from loki_rl.serving.gateway.ledger_keeper import LedgerKeeper
from loki_rl.serving.gateway.schema import described, payload_check
from loki_rl.serving.gateway.state_query import StateQuery
from loki_rl.serving.observe import logs
from loki_rl.serving.observe.meter import RequestMeter, StageMeter, control_state
from loki_rl.serving.plane import LAUNCHER, PlaneError, PlaneFile, resolve
from loki_rl.serving.process import heartbeat, parent_watch
from loki_rl.serving.process.compile_time import CompileNotice
from loki_rl.serving.process.flight_log import RECORDING, FlightLog, begin_journal
from loki_rl.serving.process.untraced import traced
from loki_rl.serving.state import Part
from loki_rl.serving.transport.driver import Carry, Delivery, Driver
from loki_rl.serving.transport.event_queue import EventQueue
from loki_rl.serving.transport.mailbox import Mailbox
from loki_rl.serving.transport.multipart import Context
from loki_rl.serving.transport.payloads import GatewayPayloads, RouterPayloads, WorkerPayloads
from loki_rl.serving.transport.shared_memory import SharedMemory
from loki_rl.serving.transport.timers import Timers
from loki_rl.serving.transport.wire import (
    Alive,
    Bye,
    ClockRead,
    Compiling,
    ControlWord,
    Gone,
    Hung,
    Idle,
    Leave,
    PartsRead,
    ReadParts,
    TraceParents,
    Troubled,
    Up,
    Warm,
)

log = logging.getLogger(__name__)

# How often arenas whose writers ended are looked for [s].
SWEEP_S = 60.0
# Time for the last letters to leave, and for a running batch to end, at an orderly stop.
LINGER_S = 0.5
# How long rows of a recording wait [s]: what shadows follow comes each second, the rest in pieces that pack well.
SEEN_EVERY_S, EVERY_S = 1.0, 5.0
# In the run directory: what a restarted gateway goes on from.
LEDGER = "ledger"


class Node:
    """Bound and known to the launcher once made. Raises PlaneError, EngineError or ConfigError where it cannot be. Engines
    and what carries out a worker's effects may be others (see serving/chaos)."""

    def __init__(self, plane: PlaneFile, name: str, folder: Path, context: Context) -> None:
        self.spec = plane.node(name)
        self.plane = plane
        self._folder = folder
        self._context = context
        self._closing: list[Callable[[], None]] = []
        self._parts: list[Callable[[], Part]] = []
        self._memory = SharedMemory(plane.memory)
        self._sweep_at = 0.0
        self._state_query: StateQuery | None = None
        self._gateway_adapter: GatewayAdapter | None = None
        self._keeper: LedgerKeeper | None = None
        self._look_back: Callable[[float], None] | None = None
        self._gateway: Gateway | None = None
        self._controller: Controller | None = None
        self._patience: list[Callable[[], float]] = []
        self._engines: list[ThreadedEngine] = []
        self._beat_at = 0.0
        self._asked_s = 0.0
        self._emulated: EmulatedEngine | None = None
        self.mailbox = Mailbox(context, name, plane.endpoints(folder, name), plane.outside(self.spec), plane.keys)
        # Before an actor is told the time.
        came = heartbeat.agree(self.mailbox, name) if self.spec.host else heartbeat.Came()
        # What others must be able to find, also if somebody removes its file.
        self._reachable = [self.mailbox.bind_again]
        self._flight_log: FlightLog | None = None
        self.driver = Driver(self.mailbox, plane.homes, check=plane.check)
        self.driver.bring(came.letters)
        self._record()
        self._traced = traced(plane, name, self.mailbox.say)
        self._closing.append(self._traced.close)
        self._finished: EventQueue[Delivery] = EventQueue()
        self.driver.listen(self._finished)
        for address in self.spec.actors:
            self._host(address)
        self.driver.on_word = self._handle
        self.driver.after_burst = self._look
        self.mailbox.say(LAUNCHER, Up(name))
        for word in came.words:
            self._handle(word)

    def run(self) -> None:
        self.driver.run()

    def close(self) -> None:
        """Let batches and letters end, and tell the launcher what was left."""
        for close in self._closing:
            try:
                close()
            except Exception:
                # A journal on a full disk, say: the others end in order all the same.
                log.exception("what this node holds cannot be closed in order")
        driver, mailbox, engine = self.driver, self.mailbox, self._emulated
        late = () if engine is None else (engine.ended, engine.late_s, engine.latest_s)
        mailbox.say(LAUNCHER, Bye(self.spec.name, driver.frames, driver.faults, driver.strays, mailbox.malformed, *late))
        mailbox.close(LAUNCHER, LINGER_S)
        driver.close()
        self._finished.close()

    # -- assembly -----------------------------------------------------------------------------------------------------

    def _record(self) -> None:
        """What is kept of this life of the node, as all its actors see it."""
        plane, driver = self.plane, self.driver
        if plane.journal is not None:
            journal = begin_journal(Path(plane.journal), self.spec)
            self._closing.append(journal.close)
            made = dict.fromkeys(self.spec.actors, self.spec.incarnation)
            driver.recorders["journal"] = Recorder(journal.write, plane.options, made)
        if plane.recording is not None:
            every_s = SEEN_EVERY_S if {GATEWAY, CONTROLLER} & {*self.spec.actors} else EVERY_S
            flight_log = FlightLog(Path(plane.recording), plane.options.pipeline, driver.troubles, every_s)
            self._flight_log = flight_log
            driver.recorders[RECORDING] = flight_log
            self._closing.append(flight_log.close)

    def _host(self, address: str) -> None:
        kind, _, number = address.partition(":")
        if address == GATEWAY:
            self._host_gateway()
        elif address == CONTROLLER:
            self._host_controller()
        elif kind == "router":
            actor = cast(Router, build(address, self.plane.options, self.spec.incarnation))
            meter = StageMeter(actor)
            self._parts.append(meter.state)
            payloads = RouterPayloads(actor.pipeline, actor.task, self._memory)
            self.driver.host(address, actor, payloads, self._kill, self._traced.meter(actor, meter))
        else:
            self._host_worker(address, int(number))

    def _host_gateway(self) -> None:
        plane = self.plane
        gateway = self._gateway = cast(Gateway, build(GATEWAY, plane.options, self.spec.incarnation))
        what = described(plane)
        front = ClientSocket(self._context, plane.front, plane.options.pipeline, what, payload_check(plane))
        payloads = GatewayPayloads(gateway, self._memory)
        others = [address for address in addresses(plane.options) if not address.startswith(("worker", GATEWAY))]
        homes = {address: plane.homes[address] for address in others}
        meter, timers = RequestMeter(gateway), Timers()
        state_query = self._state_query = StateQuery(self.mailbox.say, self.spec.name, timers)
        gateway_adapter = self._gateway_adapter = GatewayAdapter(front, what, gateway, payloads, homes, meter, state_query)
        actor, meters = self._traced.gateway(gateway, gateway_adapter), self._traced.meter(gateway, meter)
        self.driver.host(GATEWAY, actor, payloads, gateway_adapter.carry, meters)
        for source in (gateway_adapter, timers, Departures(front, timers)):
            self.driver.listen(source)
        troubles = self.driver.troubles
        keeper = self._keeper = LedgerKeeper(self._folder / LEDGER, gateway, front, gateway_adapter, meter, troubles)
        self._reachable.append(front.bind_again)
        if self.spec.incarnation:
            self.driver.bring(keeper.restore())
        # The last answers have just been written.
        self._closing += [partial(keeper.close, LINGER_S), partial(front.close, LINGER_S), timers.close]

    def _host_controller(self) -> None:
        plane = self.plane
        notice = self._notice_compiling()
        make = partial(resolve(plane.policy_factory), plane.policy, plane.options, plane.policy_options)
        planner = PlannerThread(make, self._finished)
        controller = cast(Controller, build(CONTROLLER, plane.options, self.spec.incarnation))
        if not self.spec.incarnation:
            self._controller = controller
        self._parts.append(partial(control_state, controller))
        self._patience.append(lambda: heartbeat.SOLVE_PATIENCE_S if controller.solving else 0.0)
        self.driver.host(CONTROLLER, controller, carry=self._announced(Solve, planner.carry), meter=ControlLog())
        if plane.history is not None and not Path(plane.history).exists():
            said = f"there is no {plane.history} on the controller's host; what demand is like is not kept"
            self.driver.troubles.record("history", said)
        elif plane.history is not None:
            # What only a controller needs.
            from loki_rl.serving.controlling.history_keeper import HistoryKeeper

            keeper = HistoryKeeper(Path(plane.history), controller)
            self._look_back = keeper.look
            self._closing.append(partial(keeper.close, LINGER_S))
        self._closing += [partial(planner.close, LINGER_S), partial(compiling.watchers.remove, notice.record), notice.close]

    def _notice_compiling(self) -> CompileNotice:
        """Planning needs code that is compiled once after an install: longer than a launcher waits for a silent node."""
        notice = CompileNotice(lambda busy: self.mailbox.say(LAUNCHER, Compiling(busy)))
        compiling.watchers.append(notice.record)
        self.driver.listen(notice)
        return notice

    def _host_worker(self, address: str, number: int) -> None:
        plane = self.plane
        actor = cast(Worker, build(address, plane.options, self.spec.incarnation))
        payloads = WorkerPayloads()
        if plane.engine == "emulated":
            self.driver.host(address, actor, payloads, self.emulated_carry(address, payloads))
            return
        pipeline = plane.options.pipeline
        engine = ThreadedEngine(address, pipeline, self.real_engine(number), payloads, self._finished, self._memory)
        self._engines.append(engine)
        longest_s = heartbeat.BUILD_PATIENCE_S if self.spec.device.startswith("tensorrt") else heartbeat.LOAD_PATIENCE_S
        self._patience.append(lambda: longest_s if actor.loading != PARKED else 0.0)
        self.driver.host(address, actor, payloads, self._announced(Load, engine.carry))
        self._closing.append(partial(engine.close, LINGER_S))

    def real_engine(self, number: int) -> Engine:
        """Of one worker. Raises EngineError or ConfigError."""
        return make_engine(self.plane, number, self.spec.device)

    def emulated_engine(self) -> EmulatedEngine:
        """Of all workers of this process."""
        return EmulatedEngine(self.plane.options)

    def emulated_carry(self, address: str, _payloads: WorkerPayloads) -> Carry:
        """What does what a worker asks for."""
        return partial(self.emulate().carry, address)

    def emulate(self) -> EmulatedEngine:
        """One for all workers of this process."""
        if self._emulated is None:
            self._emulated = self.emulated_engine()
            self.driver.listen(self._emulated)
            self._closing.append(self._emulated.close)
        return self._emulated

    def _kill(self, effect: Effect, _now: float) -> None:
        """What a router asks for beside messages."""
        if not isinstance(effect, Kill):
            raise TypeError(f"a router cannot carry out {type(effect).__name__}")
        self.mailbox.say(LAUNCHER, Hung(effect.worker, effect.incarnation, effect.reason))

    # -- signs of life ------------------------------------------------------------------------------------------------

    def _beat(self) -> None:
        self._beat_at = time.monotonic() + heartbeat.BEAT_S
        self._asked_s = self._patience_s()
        self.mailbox.say(LAUNCHER, Alive(self.spec.name, self.spec.incarnation, self._asked_s))
        if self.spec.host:
            heartbeat.ask(self.mailbox, self.spec.name)
        for bind_again in self._reachable:
            bind_again()
        self._tell_troubles()
        if self._beat_at >= self._sweep_at:
            self._sweep_at = self._beat_at + SWEEP_S
            self._memory.sweep(self._beat_at)

    def _tell_troubles(self) -> None:
        news = self.driver.troubles.news()
        if news and self._gateway_adapter is not None:
            self._gateway_adapter.note(self.spec.name, news)
        elif news:
            self.mailbox.say(self.plane.homes[GATEWAY], Troubled(self.spec.name, news))

    def _patience_s(self) -> float:
        return max((longest_s() for longest_s in self._patience), default=0.0)

    def _announced(self, kind: type[Effect], carry: Carry) -> Carry:
        """An effect of this kind begins what may hold the interpreter, so it is said before."""

        def carry_out(effect: Effect, now: float) -> None:
            if isinstance(effect, kind):
                self._beat()
            carry(effect, now)

        return carry_out

    # -- beside the actors --------------------------------------------------------------------------------------------

    def _handle(self, word: ControlWord) -> None:
        if isinstance(word, Gone):
            self.mailbox.forget(word.node, word.endpoint)
            if word.node == self.plane.homes[GATEWAY]:
                self.driver.troubles.tell_again()
        elif isinstance(word, ReadParts):
            self.mailbox.say(word.by, PartsRead(word.question, self.spec.name, [part() for part in self._parts]))
        elif isinstance(word, PartsRead) and self._state_query is not None:
            self._state_query.record(word)
        elif isinstance(word, Troubled) and self._gateway_adapter is not None:
            self._gateway_adapter.note(word.process, word.troubles)
        elif isinstance(word, TraceParents):
            self._traced.hear(word)
        elif isinstance(word, ClockRead):
            clock.hear(word.asked, word.now)
        elif isinstance(word, Leave) and self._gateway_adapter is not None:
            self._gateway_adapter.leave()
        elif isinstance(word, Warm) and self._gateway_adapter is not None and self._gateway_adapter.opened is None:
            # From here, so that no client's own begin can come before this one.
            self.driver.bring(self._gateway_adapter.open(time.monotonic()))
            self.mailbox.say(LAUNCHER, Warm())

    def _look(self) -> None:
        """Say that this node lives; once that the first plan's models are loaded, and once that no request is open after
        Drain."""
        for engine in self._engines:
            engine.run_short()
        # What it asked for ends with what it was for: it may stop in the next moment.
        if time.monotonic() >= self._beat_at or (self._asked_s and self._asked_s > self._patience_s()):
            self._beat()
        if self._controller is not None and self._controller.converged:
            self._controller = None
            self.mailbox.say(self.plane.homes[GATEWAY], Warm())
        if self._keeper is not None:
            self._keeper.look(time.monotonic())
        if self._look_back is not None:
            self._look_back(time.monotonic())
        if self._flight_log is not None:
            self._flight_log.look(time.monotonic())
        gateway = self._gateway
        if gateway is not None and gateway.draining and not gateway.by_key:
            self._gateway = None
            self.mailbox.say(LAUNCHER, Idle())


Make = Callable[[PlaneFile, str, Path, Context], Node]


def serve(folder: Path, name: str, make: Make = Node) -> None:
    """Run a node until SIGTERM."""
    plane = PlaneFile.read(folder)
    logs.start(name, plane.logs)
    with zmq.Context() as context:
        node = make(plane, name, folder, context)
        signal.signal(signal.SIGTERM, lambda *_: node.driver.stop())
        # What the start made stays for good: a collection that walks it finds nothing and costs an idle node its caches.
        gc.collect()
        gc.freeze()
        node.run()
        node.close()


def arguments(module: str) -> argparse.ArgumentParser:
    """What every node's process is told."""
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description="One process of a plane.")
    parser.add_argument("folder", type=Path, help="run directory of the plane")
    parser.add_argument("name", help="name of the node")
    return parser


def run(folder: Path, name: str, make: Make = Node) -> None:
    """As `serve`, tied to the launcher; what cannot be is told in a sentence on standard error."""
    parent_watch.hold()
    try:
        serve(folder, name, make)
    except (PlaneError, EngineError, ConfigError, AdapterError) as error:
        sys.exit(str(error))


def main() -> None:
    chosen = arguments("loki_rl.serving.process.node").parse_args()
    run(chosen.folder, chosen.name)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
