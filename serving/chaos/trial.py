"""A trial: a plane of real processes, clients of both protocols, and one fault after the other."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from msgspec import Struct

from loki_rl.core.messages import GATEWAY
from loki_rl.core.options import ClusterOptions
from loki_rl.core.requests.ledger import Tally
from loki_rl.serving.chaos.account import Account, account
from loki_rl.serving.chaos.faults import Saboteur
from loki_rl.serving.chaos.node import MODULE
from loki_rl.serving.chaos.orders import Orders, curses, digests, spoil
from loki_rl.serving.chaos.recovery import Row, Struck, costs, row
from loki_rl.serving.chaos.schedule import Fault, Kind, Targets, schedule
from loki_rl.serving.chaos.watch import Sign, Watch
from loki_rl.serving.gateway.client import Client, ClientError
from loki_rl.serving.load.http_sender import HttpSender
from loki_rl.serving.load.native_sender import NativeSender
from loki_rl.serving.load.open_loop import LOST_S, OpenLoop, Record, lag_ms
from loki_rl.serving.load.sender import Sender
from loki_rl.serving.plane import EngineKind, Layout
from loki_rl.serving.process.launch import LocalPlane
from loki_rl.serving.process.layout import nodes_of
from loki_rl.serving.process.restart_budget import WINDOW_S
from loki_rl.serving.state import Requests
from loki_rl.serving.transport.wire import Array

HTTP_PROCESSES = 2
# Load alone, before the first fault and after the plane is whole again [s].
BEFORE_S, AFTER_S = 8.0, 4.0
LOOK_S = 0.02
# Longest until all processes run again and serve: one that was started too often stays away for a while.
WHOLE_S = WINDOW_S + 60.0
# A gateway writes down what it stands for each second, and where that failed it tries again after a minute.
SNAPSHOT_S, UNWRITTEN_S = 2.5, 62.0


class Ordeal(Struct, frozen=True):
    """What is tried. payloads: sent in turn, None where the engine is emulated. sample: a payload that may be cursed.
    repository: where the models of an onnx engine are. count, every_s, kinds, seed: as in schedule."""

    cluster: ClusterOptions
    engine: EngineKind
    rps: float
    count: int
    every_s: float
    kinds: tuple[Kind, ...]
    seed: int
    sample: Array
    payloads: Sequence[Array] | None = None
    pipeline_file: str = ""
    repository: Path | None = None
    device: str = "cpu"
    policy: str = "exact"
    policy_options: dict[str, object] = {}
    layout: Layout = "spread"


class Verdict(Struct):
    """faults: that were carried out, and `skipped` that found nobody there. usual: share in time before them. alive: why the
    plane is not whole at the end, empty if it is. crashes: processes that ended by themselves."""

    faults: int
    skipped: int
    usual: float
    rows: list[Row]
    account: Account
    alive: str
    crashes: list[str]
    lag_ms: float
    wall_s: float

    @property
    def passed(self) -> bool:
        found = self.account
        return not (found.lost or found.twice or found.unexplained or found.faults or self.alive or self.crashes)


def targets(ordeal: Ordeal) -> Targets:
    nodes = nodes_of(ordeal.cluster, ordeal.engine, ordeal.device, ordeal.cluster.servers, ordeal.layout)
    return Targets(
        nodes=tuple(node.name for node in nodes),
        workers=tuple(node.name for node in nodes if node.is_worker),
        fronts=("http", *(f"http-{number}" for number in range(1, HTTP_PROCESSES))),
    )


def hold(ordeal: Ordeal, progress: Callable[[int, int], None]) -> Verdict:
    """Start a plane, hurt it, and take stock. progress: told faults so far, and of how many. Raises LaunchError where it
    does not even start."""
    began = time.monotonic()
    found = targets(ordeal)
    faults = schedule(found, ordeal.kinds, ordeal.count, ordeal.every_s, ordeal.seed)
    with tempfile.TemporaryDirectory(prefix="trial-") as folder:
        site = Path(folder)
        cursed = curses(ordeal.sample)
        orders = Orders(cursed=digests(cursed))
        orders.write(site)
        if ordeal.repository is not None:
            spoil(ordeal.repository, site)
        with _plane(ordeal, site) as plane, Watch(plane) as watch:
            pipeline = ordeal.cluster.pipeline
            sender = NativeSender(plane.front, pipeline.name, list(cursed.values()), pipeline.slo_s)
            saboteur = Saboteur(plane, site, orders, sender, watch.serves)
            try:
                return _Trial(ordeal, plane, watch, saboteur, found, progress).run(faults, began)
            finally:
                saboteur.close()


def _plane(ordeal: Ordeal, site: Path) -> LocalPlane:
    return LocalPlane(
        ordeal.cluster,
        engine=ordeal.engine,
        pipeline_file=ordeal.pipeline_file,
        device=ordeal.device,
        policy=ordeal.policy,
        policy_options=ordeal.policy_options,
        http_port=0,
        http_processes=HTTP_PROCESSES,
        layout=ordeal.layout,
        worker_processes=ordeal.cluster.servers,
        node=(MODULE, "--site", str(site)),
        check=True,
    )


class _Trial:
    def __init__(
        self,
        ordeal: Ordeal,
        plane: LocalPlane,
        watch: Watch,
        saboteur: Saboteur,
        found: Targets,
        progress: Callable[[int, int], None],
    ) -> None:
        self._ordeal = ordeal
        self._plane = plane
        self._watch = watch
        self._saboteur = saboteur
        self._targets = found
        self._progress = progress
        self._processes = len(plane.pids)
        self._struck: list[Struck] = []
        self._skipped = 0

    def run(self, faults: Sequence[Fault], began: float) -> Verdict:
        pipeline, plane = self._ordeal.cluster.pipeline, self._plane
        url = f"http://127.0.0.1:{plane.http_port}"
        with Client(plane.front) as client:
            client.begin_run()
        payloads, slo_s = self._ordeal.payloads, pipeline.slo_s
        native = NativeSender(plane.front, pipeline.name, payloads, slo_s)
        senders: list[Sender] = [native, HttpSender(url, pipeline.name, payloads, slo_s)]
        with OpenLoop(senders, self._ordeal.rps, self._ordeal.seed) as loop:
            self._wait(BEFORE_S, loop)
            self._strike(faults, loop)
            whole = self._until_whole(loop)
            self._wait(AFTER_S, loop)
            records = loop.stop()
            self._settle()
            again = native.unasked
        return self._verdict(records, again, whole, began)

    # -- the faults ---------------------------------------------------------------------------------------------------

    def _strike(self, faults: Sequence[Fault], loop: OpenLoop) -> None:
        zero = time.monotonic()
        for fault in faults:
            self._wait(zero + fault.at_s - time.monotonic(), loop)
            if self._plane.failure:
                return
            at = time.monotonic()
            if self._begin(fault):
                self._struck.append(Struck(fault, at))
            else:
                self._skipped += 1
            self._progress(fault.number + 1, len(faults))

    def _begin(self, fault: Fault) -> bool:
        """An order that cannot be written while the disk is full is one that was not given."""
        try:
            return self._saboteur.begin(fault)
        except OSError:
            return False

    def _wait(self, seconds: float, loop: OpenLoop) -> None:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            loop.check()
            self._saboteur.look()
            time.sleep(min(LOOK_S, left))

    # -- the end ------------------------------------------------------------------------------------------------------

    def _until_whole(self, loop: OpenLoop) -> str:
        """Why the plane does not run and serve again in time; empty if it does."""
        limit, why = time.monotonic() + WHOLE_S, "nothing was asked"
        with Client(self._plane.front) as client:
            while why and time.monotonic() < limit and not self._plane.failure:
                self._wait(5 * LOOK_S, loop)
                why = self._missing(client)
        return self._plane.failure or why

    def _missing(self, client: Client) -> str:
        if self._saboteur.waiting:
            return "a fault lasts, or a request that was cursed has no end"
        if (running := len(self._plane.pids)) < self._processes:
            return f"{running} of {self._processes} processes run"
        try:
            return client.state().unready
        except ClientError as error:
            return str(error)

    def _settle(self) -> None:
        """What was cursed may end last."""
        limit = time.monotonic() + LOST_S
        while self._saboteur.waiting and time.monotonic() < limit:
            self._saboteur.look()
            time.sleep(LOOK_S)

    def _verdict(self, records: Sequence[Record], again: int, whole: str, began: float) -> Verdict:
        watch = self._watch
        tally, shown = self._ask()
        everything = [*records, *self._saboteur.records]
        found = account(everything, again, tally, shown, self._forgotten(watch.signs))
        slo_s = self._ordeal.cluster.pipeline.slo_s
        usual, each = costs(records, self._struck, watch.signs, slo_s, self._targets.workers)
        kinds = [kind for kind in self._ordeal.kinds if any(one.kind == kind for one in each)]
        rows = [row(kind, [one for one in each if one.kind == kind]) for kind in kinds]
        wall_s = time.monotonic() - began
        return Verdict(len(self._struck), self._skipped, usual, rows, found, whole, watch.crashes, lag_ms(records), wall_s)

    def _ask(self) -> tuple[Tally, Requests]:
        """The plane's own account, once nothing is in flight or it is time to say so; nothing where it has failed."""
        limit = time.monotonic() + LOST_S
        with Client(self._plane.front) as client:
            while not self._plane.failure and time.monotonic() < limit:
                try:
                    shown = client.state().requests
                    if not shown.in_flight or time.monotonic() > limit - 1.0:
                        return client.ledger().tally, shown
                except ClientError:
                    continue
                time.sleep(LOOK_S)
        return Tally(), Requests()

    def _forgotten(self, signs: Sequence[Sign]) -> list[tuple[float, float]]:
        """What a gateway that was lost had not written down; on a disk that was full before, all since."""
        full = [one.at for one in self._struck if one.fault.kind == "disk"]
        spans = []
        for lost in (sign.at for sign in signs if sign.whom == GATEWAY):
            since = [at for at in full if lost - UNWRITTEN_S <= at <= lost]
            spans.append((min([lost, *since]) - SNAPSHOT_S, lost))
        return spans
