"""What one router process can carry: processor time per task-request (one item at one task) and task-requests per second,
for 1, 8 and 46 items a message, with workers that answer at once.

The router is a node's process as in every plane; this script plays all other nodes. Wall rates say what this machine left to
both; the rate that the router's own processor time allows is printed beside them.
"""

from __future__ import annotations

import argparse
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import zmq
from msgspec import Struct

from loki_rl.control.allocator.allocate import allocate
from loki_rl.control.formulation.request import Request
from loki_rl.core.cluster import addresses
from loki_rl.core.messages import CONTROLLER, GATEWAY, Ended, Execute, PlanChanged, Ready, Result, Submit, router, worker
from loki_rl.core.options import ClusterOptions
from loki_rl.core.pipeline import Pipeline
from loki_rl.core.plan import Plan
from loki_rl.core.requests.items import Family, size
from loki_rl.files.config import load_pipeline
from loki_rl.serving.observe.span_options import SpanOptions
from loki_rl.serving.plane import LAUNCHER, NodeSpec, PlaneFile, pack_options
from loki_rl.serving.process.child import Child, python
from loki_rl.serving.transport.mailbox import Mailbox
from loki_rl.serving.transport.wire import Letter, Up

LIMIT_US, GOAL_RATE = 5.0, 100_000.0
WORKERS = 20
OUTSTANDING = 2_000  # items in the router and on the way
OTHERS = "others"
NO_TRACES = SpanOptions()


class Figure(Struct):
    """cpu_us: of the whole router process per task-request; rate: task-requests per second of wall time; batch: items of a
    mean batch."""

    cpu_us: float
    rate: float
    batch: float


class Stage:
    """A router under load. task: the position of its task; the paths of a plan's routes are what makes its items."""

    def __init__(self, pipeline: Pipeline, plan: Plan, task: int, per_message: int, mailbox: Mailbox, node: str) -> None:
        self.pipeline = pipeline
        self.task, self.per_message = task, per_message
        self.mailbox, self.node = mailbox, node
        self.address = router(task)
        self.ended = 0
        self.batches = 0
        self.sent = 0
        self.roots = 0
        self.paths = self._paths(plan)
        self.siblings = self._siblings()
        self.placed = [
            (pipeline.variant_index[task][place.variant], place.batch)
            for place in plan.placements
            if place.task == pipeline.tasks[task].name
            for _ in range(place.replicas)
        ]
        self._say(CONTROLLER, PlanChanged(plan))
        for number, (variant, batch) in enumerate(self.placed):
            self._say(worker(number), Ready(number, 0, 1, variant, batch))
        self.serials = [1] * len(self.placed)

    def play(self, seconds: float) -> None:
        """Keep the router busy for so long, then let it end what it has."""
        until = time.monotonic() + seconds
        poller = zmq.Poller()
        poller.register(self.mailbox.inbox, zmq.POLLIN)
        while self.ended < self.sent or time.monotonic() < until:
            now = time.monotonic()
            while now < until and self.sent - self.ended < OUTSTANDING:
                self._submit(now)
                self.mailbox.flush()
            poller.poll(100)
            for letter, _ in self.mailbox.take(64)[0]:
                self._hear(letter)
            self.mailbox.flush()

    def _submit(self, now: float) -> None:
        """One message: the children of as many items as it takes, or as many requests at an entry task."""
        prefix, n = self.paths[self.roots % len(self.paths)], self.per_message
        families: list[Family] = []
        for start in range(0, n, self.siblings):
            first = self.pipeline.entry_id(self.roots, 0)
            if prefix:
                first = self.pipeline.child_id(first, self.task, 0)
            # An hour: what is measured is the way of an item that is served.
            families.append(Family(first, now, now + 3600.0, prefix, None, min(self.siblings, n - start)))
            self.roots += 1
        self._say(GATEWAY, Submit(families))
        self.sent += n

    def _hear(self, letter: Letter) -> None:
        message = letter.message
        if type(message) is Execute:
            number = int(letter.to.partition(":")[2])
            self.serials[number] += 1
            self.batches += 1
            fanouts = [(2,) * len(self.pipeline.children[self.task])] * size(message.families) if self._has_children else []
            self._say(letter.to, Result(number, 0, message.batch, message.variant, fanouts, 0.001, ""))
            self._say(letter.to, Ready(number, 0, self.serials[number], *self.placed[number]))
        elif type(message) is Ended:
            self.ended += size(message.families)

    def _siblings(self) -> int:
        """Children of one item, in the mean of the paths; one at an entry task."""
        parent = self.pipeline.parents[self.task]
        if parent < 0:
            return 1
        place = self.pipeline.children[parent].index(self.task)
        variants = [self.pipeline.unpack(path)[-1] for path in self.paths if path]
        made = [self.pipeline.fanouts[parent][variant][place] for variant in variants]
        return max(1, round(sum(made) / len(made))) if made else 1

    @property
    def _has_children(self) -> bool:
        return bool(self.pipeline.children[self.task])

    def _say(self, _: str, message: PlanChanged | Ready | Submit | Result) -> None:
        self.mailbox.post(self.node, Letter(self.address, message, ()), ())

    def _paths(self, plan: Plan) -> list[int]:
        """Codes of the variant paths that lead to the task, the commonest most often."""
        depth = len(self.pipeline.lines[self.task]) - 1
        found: list[int] = []
        for route in plan.routes:
            if self.pipeline.index[route.leaf] in self.pipeline.leaves and depth:
                prefix = 0
                for above, (name, *_) in zip(self.pipeline.lines[self.task][:depth], route.stages, strict=False):
                    prefix = self.pipeline.extend(prefix, self.pipeline.variant_index[above][name])
                found += [prefix] * max(1, round(10 * route.share))
        return found or [0]


@contextmanager
def process(options: ClusterOptions, task: int, traces: SpanOptions = NO_TRACES) -> Iterator[tuple[Mailbox, str, int]]:
    """The router's process, the mailbox of everybody else, and its process id."""
    mine = f"router-{task}"
    others = tuple(address for address in addresses(options) if address != router(task))
    with TemporaryDirectory() as name, zmq.Context() as context:
        folder = Path(name)
        plane = PlaneFile(
            pack_options(options), (NodeSpec(mine, (router(task),)), NodeSpec(OTHERS, others)), "", traces=traces
        )
        plane.write(folder)
        launcher = Mailbox(context, LAUNCHER, plane.endpoints(folder))
        mailbox = Mailbox(context, OTHERS, plane.endpoints(folder))
        child = Child(mine, _command(folder, mine), folder / "log")
        try:
            while not any(isinstance(word, Up) for word in _words(launcher)):
                pass
            yield mailbox, mine, child.pid
        finally:
            child.terminate()
            child.reap()
            mailbox.close()
            launcher.close()


def _words(mailbox: Mailbox) -> list[object]:
    mailbox.inbox.poll(10_000)
    return list(mailbox.take(8)[1])


def _command(folder: Path, name: str) -> list[str]:
    return python("loki_rl.serving.process.node", str(folder), name)


def cpu_s(pid: int) -> float:
    """Processor time of all threads of a process so far [s]."""
    tasks = Path(f"/proc/{pid}/task")
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks.iterdir()) / 1e9


def measure(
    pipeline: Pipeline, plan: Plan, task: int, per_message: int, seconds: float, traces: SpanOptions = NO_TRACES
) -> Figure:
    with process(ClusterOptions(pipeline, WORKERS, lease=1000.0), task, traces) as (mailbox, node, pid):
        stage = Stage(pipeline, plan, task, per_message, mailbox, node)
        stage.play(0.3)  # until everything is warm
        before, ended, batches, began = cpu_s(pid), stage.ended, stage.batches, time.monotonic()
        stage.play(seconds)
        items, batches = stage.ended - ended, stage.batches - batches
        return Figure(1e6 * (cpu_s(pid) - before) / items, items / (time.monotonic() - began), items / batches)


class Sink(BaseHTTPRequestHandler):
    """A collector that keeps nothing."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def collector() -> Iterator[str]:
    """Endpoint of a collector for traces."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Sink) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def print_traces(pipeline: Pipeline, plan: Plan, seconds: float, runs: int) -> None:
    """What traces cost the busiest router."""
    task = max(range(len(pipeline.tasks)), key=lambda task: len(pipeline.lines[task]))
    with collector() as endpoint:
        for ratio in (None, 0.0, 0.01, 0.1):
            traces = SpanOptions() if ratio is None else SpanOptions(endpoint, ratio)
            cpu_us = median(measure(pipeline, plan, task, 46, seconds, traces).cpu_us for _ in range(runs))
            share = "no traces" if ratio is None else f"{ratio:.0%} traced"
            print(f"{pipeline.tasks[task].name:22}{46:14}{'':12}{cpu_us:13.2f}  {share}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pipeline", default="traffic")
    parser.add_argument("--rps", type=float, default=700.0, help="demand that the plan is for")
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--runs", type=int, default=3)
    args = parser.parse_args()
    pipeline = load_pipeline(args.pipeline).pipeline
    plan = allocate(pipeline, Request(args.rps, pipeline.servers))
    print(
        f"{args.pipeline}, plan for {args.rps:g} requests/s, medians of {args.runs}; load average {os.getloadavg()[0]:.1f}"
    )
    titles = f"{'items/message':>14}{'items/batch':>12}{'CPU us/item':>13}{'CPU allows/s':>14}{'wall items/s':>14}"
    print(f"{'task':22}{titles}  limit")
    best = ("", 0.0)
    for task in range(len(pipeline.tasks)):
        for per_message in (1, 8, 46):
            figures = [measure(pipeline, plan, task, per_message, args.seconds) for _ in range(args.runs)]
            cpu_us, rate = median(f.cpu_us for f in figures), median(f.rate for f in figures)
            verdict = "" if per_message < 8 else f"<= {LIMIT_US:g} us {'met' if cpu_us <= LIMIT_US else 'MISSED'}"
            name = pipeline.tasks[task].name
            best = max(best, (f"{name}, {per_message} a message", rate), key=lambda found: found[1])
            batch = median(f.batch for f in figures)
            row = f"{per_message:14}{batch:12.1f}{cpu_us:13.2f}{1e6 / cpu_us:14.0f}{rate:14.0f}"
            print(f"{name:22}{row}  {verdict}", flush=True)
    verdict = "met" if best[1] >= GOAL_RATE else "MISSED"
    print(f"most through one process: {best[1]:.0f} items/s by wall ({best[0]}); goal {GOAL_RATE:.0f} {verdict}", flush=True)
    print_traces(pipeline, plan, args.seconds, args.runs)


if __name__ == "__main__":
    main()
