"""Added latency at idle over the sum of model times, per hop (one message between two processes), and CPU per request:
clients of the native protocol, HTTP and gRPC, one request at a time, against chains of emulated models and *reading*.

What the emulated models' timers add is the machine's, not ours: its mean is printed and taken off. What a hop costs
between two bare ZeroMQ processes is printed too: the floor. On a machine that does other work, `nice -n -20` or
`chrt -r 5` before the command comes nearest to an idle one. Cores that sleep cost more the longer they slept; --awake keeps
them from it, so that the difference can be told from what the plane costs.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from statistics import median, quantiles
from tempfile import TemporaryDirectory

import zmq
from msgspec import Struct

from loki_rl.core.options import ClusterOptions
from loki_rl.core.pipeline import Latency, Pipeline, Task, Variant
from loki_rl.files.config import load_pipeline
from loki_rl.reading.models import font_files
from loki_rl.reading.scenes import scenes
from loki_rl.serving.engines.files import ModelError
from loki_rl.serving.gateway.client import Client
from loki_rl.serving.plane import Layout
from loki_rl.serving.process.launch import LocalPlane
from loki_rl.serving.transport.listening import hold

# Limits of the median per hop [us].
LIMITS_US = {"native": 150.0, "http": 250.0}
MODEL_S = 0.004
# As long as the models of *reading* take here: the longer a plane sleeps, the more its next hop costs.
LONG_MODEL_S = 0.013
WARM = 50
TICK_S = 1 / os.sysconf("SC_CLK_TCK")

LAYOUTS: tuple[Layout, ...] = ("compact", "spread")
READING = Path(__file__).with_name("reading.yaml")

# Asks once.
Ask = Callable[[], None]


class Case(Struct):
    """A pipeline and what is sent to it. file: of a pipeline with real models."""

    name: str
    options: ClusterOptions
    payload: bytes | None = None
    file: str = ""

    @property
    def depth(self) -> int:
        return len(self.options.pipeline.tasks)


class Row(Struct):
    """added: beyond the models' times, per request [s]. late_s: mean lateness of an emulated model's timer. cpu_us: per
    request, by kind of process."""

    case: str
    door: str
    layout: Layout
    depth: int
    added: list[float]
    late_s: float
    cpu_us: dict[str, float]

    @property
    def hops(self) -> int:
        """Client and gateway, gateway and first router, router and worker at each task, router and next, last and gateway;
        where gateway and routers share a process, client and gateway, and worker and router; a front end stands between
        client and gateway."""
        inside = 2 + 2 * self.depth if self.layout == "compact" else 3 + 3 * self.depth
        return inside + (0 if self.door == "native" else 2)

    def p50_us(self) -> float:
        return 1e6 * (median(self.added) - self.late_s * self.depth)


def chain(depth: int, model_s: float = MODEL_S) -> Case:
    """Tasks one after another, each item with one child on average, whose models take so long [s] whatever the batch."""
    times = {1: Latency(model_s, model_s, model_s)}
    tasks = tuple(
        Task(
            f"t{number}",
            (Variant("only", 1.0, times, {f"t{number + 1}": 1.0} if number + 1 < depth else {}),),
            parent=f"t{number - 1}" if number else None,
            entry=0.0 if number else 1.0,
        )
        for number in range(depth)
    )
    return Case(
        f"{depth} of {1000 * model_s:g} ms", ClusterOptions(Pipeline("chain", 1.0, tasks, {f"t{depth - 1}": 1.0}), depth)
    )


def reading() -> Case | None:
    """Real models, a picture in, crops between the tasks; None if the models are not there."""
    file = load_pipeline(str(READING))
    try:
        scene = next(iter(scenes(1, 7, font_files(file.repository))))
    except ModelError:
        return None
    return Case("reading", ClusterOptions(file.pipeline, 2), scene.jpeg, str(READING))


@contextmanager
def native(case: Case, plane: LocalPlane, _: dict[str, int]) -> Iterator[Ask]:
    with Client(plane.front) as client:
        client.wait_ready()

        def ask() -> None:
            answer = client.infer(case.payload)
            assert answer.outcome == "ok", answer

        yield ask


@contextmanager
def http(case: Case, _: LocalPlane, ports: dict[str, int]) -> Iterator[Ask]:
    """A bare socket: a client library would cost as much as the whole way."""
    request = http_request(case)
    with socket.create_connection(("127.0.0.1", ports["http"])) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        def ask() -> None:
            connection.sendall(request)
            answer = b""
            while b'"outputs"' not in answer or not answer.endswith(b"}"):
                part = connection.recv(65536)
                assert part, f"the connection was closed: {answer!r}"
                answer += part

        yield ask


def http_request(case: Case) -> bytes:
    name, data = case.options.pipeline.name, case.payload or b""
    tensor = {"name": "image", "datatype": "UINT8", "shape": [len(data)], "parameters": {"binary_data_size": len(data)}}
    body = json.dumps({"inputs": [] if case.payload is None else [tensor]}).encode()
    head = f"POST /v2/models/{name}/infer HTTP/1.1\r\nHost: x\r\nInference-Header-Content-Length: {len(body)}\r\n"
    return f"{head}Content-Length: {len(body) + len(data)}\r\n\r\n".encode() + body + data


@contextmanager
def grpc(case: Case, _: LocalPlane, ports: dict[str, int]) -> Iterator[Ask]:
    from grpc import insecure_channel
    from tritonclient.grpc import service_pb2, service_pb2_grpc

    request = service_pb2.ModelInferRequest(model_name=case.options.pipeline.name)
    if case.payload is not None:
        request.inputs.add(name="image", datatype="UINT8", shape=[len(case.payload)])
        request.raw_input_contents.append(case.payload)
    with insecure_channel(f"127.0.0.1:{ports['grpc']}") as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        yield lambda: stub.ModelInfer(request)


ECHO = """
import sys, zmq
with zmq.Context() as context, context.socket(zmq.PULL) as inbox, context.socket(zmq.PUSH) as outbox:
    inbox.bind(sys.argv[1])
    outbox.connect(sys.argv[2])
    while message := inbox.recv():
        outbox.send(message)
"""
DOORS = {"native": native, "http": http, "grpc": grpc}


def measure(case: Case, layout: Layout, requests: int, think_s: float) -> list[Row]:
    held = {name: hold("127.0.0.1", 0) for name in ("http", "grpc")}
    ports = {name: bound.getsockname()[1] for name, bound in held.items()}
    rows: list[Row] = []
    plane = LocalPlane(
        case.options,
        engine="onnx" if case.file else "emulated",
        pipeline_file=case.file,
        layout=layout,
        policy="static",
        policy_options={"servers": case.options.servers, "demand_rps": 2.0},
        http_port=ports["http"],
        grpc_port=ports["grpc"],
    )
    with plane, Client(plane.front) as witness:
        for name, door in DOORS.items():
            with door(case, plane, ports) as ask:
                added_s(case, witness, ask, WARM, think_s)
                before = cpu_s(plane)
                added = added_s(case, witness, ask, requests, think_s)
                after = cpu_s(plane)
            spent = {kind: 1e6 * (after[kind] - before[kind]) / requests for kind in after}
            rows.append(Row(case.name, name, layout, case.depth, added, 0.0, spent))
    hosts = [bye for bye in plane.byes.values() if bye.timers]
    for row in rows if hosts else []:
        row.late_s = sum(bye.late_s for bye in hosts) / sum(bye.timers for bye in hosts)
    return rows


def added_s(case: Case, witness: Client, ask: Ask, requests: int, think_s: float) -> list[float]:
    """Latencies less the time that the plane says its models took; only of requests that ran one batch per task, so that
    nothing waited or ran side by side."""
    gc.collect()
    gc.disable()
    found: list[float] = []
    models, batches = model_time(witness)
    for _ in range(requests):
        time.sleep(think_s)
        begin = time.perf_counter()
        ask()
        seconds = time.perf_counter() - begin
        former, done = models, batches
        models, batches = model_time(witness)
        if batches - done == case.depth:
            found.append(seconds - (models - former))
    gc.enable()
    return found


def model_time(witness: Client) -> tuple[float, int]:
    """Seconds and batches of all models so far."""
    computes = [count.compute for stage in witness.state().stages for count in stage.variants.values()]
    return sum(compute.sum_s for compute in computes), sum(compute.count for compute in computes)


def cpu_s(plane: LocalPlane) -> dict[str, float]:
    """CPU time of the plane's processes so far, by kind."""
    spent: dict[str, float] = {}
    for name, pid in plane.pids.items():
        with suppress(FileNotFoundError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            kind = name.partition("-")[0]
            spent[kind] = spent.get(kind, 0.0) + TICK_S * (int(fields[11]) + int(fields[12]))
    return spent


def floor_us(requests: int, think_s: float) -> float:
    """Median time of a hop between two processes that do nothing else."""
    with TemporaryDirectory() as folder:
        there, back = f"ipc://{folder}/there", f"ipc://{folder}/back"
        echo = subprocess.Popen([sys.executable, "-c", ECHO, there, back])
        with zmq.Context() as context, context.socket(zmq.PULL) as inbox, context.socket(zmq.PUSH) as outbox:
            inbox.bind(back)
            outbox.connect(there)

            found: list[float] = []
            for _ in range(requests):
                time.sleep(think_s)
                begin = time.perf_counter()
                outbox.send(b"x" * 100)
                inbox.recv()
                found.append(time.perf_counter() - begin)
            outbox.send(b"")
        echo.wait()
    return 1e6 * median(found) / 2


@contextmanager
def awake() -> Iterator[None]:
    """A loop on every core that gives way to everything else."""
    code = "import os\nos.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))\nwhile True: pass"
    loops = [subprocess.Popen([sys.executable, "-c", code]) for _ in os.sched_getaffinity(0)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def report(rows: list[Row]) -> None:
    print(
        f"{'pipeline':12}{'layout':9}{'door':8}{'n':>5}{'hops':>6}{'added p50':>11}{'p90':>8}{'p99':>8}"
        f"{'timer':>7}{'per hop':>9}  limit"
    )
    for row in rows:
        p50 = row.p50_us()
        high = [1e6 * (cut - row.late_s * row.depth) for cut in quantiles(row.added, n=100)]
        limit = LIMITS_US.get(row.door)
        verdict = "" if limit is None else f"<= {limit:g} us {'met' if p50 / row.hops <= limit else 'MISSED'}"
        print(
            f"{row.case:12}{row.layout:9}{row.door:8}{len(row.added):5}{row.hops:6}{p50:11.0f}{high[89]:8.0f}{high[98]:8.0f}"
            f"{1e6 * row.late_s:7.0f}{p50 / row.hops:9.0f}  {verdict}"
        )
    print("\nCPU per request [us], idle (a wake-up costs the most; it falls with load)")
    for row in rows:
        kinds = "  ".join(f"{kind} {us:.0f}" for kind, us in sorted(row.cpu_us.items()) if us >= 1)
        print(f"{row.case:12}{row.layout:9}{row.door:8}  all {sum(row.cpu_us.values()):.0f}:  {kinds}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=400)
    parser.add_argument("--think-ms", type=float, default=3.0, help="pause before each request, so that all are asleep")
    parser.add_argument("--awake", action="store_true", help="keep the cores from sleeping")
    chosen = parser.parse_args()
    think_s = chosen.think_ms / 1000
    real = reading()
    cases = [chain(1), chain(2), chain(2, LONG_MODEL_S), *([] if real is None else [real])]
    with awake() if chosen.awake else nullcontext():
        floor = floor_us(chosen.requests, think_s)
        rows = [row for case in cases for layout in LAYOUTS for row in measure(case, layout, chosen.requests, think_s)]
    print(f"load average {os.getloadavg()[0]:.1f}, {chosen.think_ms:g} ms between requests, bare hop {floor:.0f} us")
    report(rows)
    if real is None:
        print("\nreading: its models are not there ('loki-rl models fetch reading')")


if __name__ == "__main__":
    main()
