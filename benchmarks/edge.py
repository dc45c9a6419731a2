"""Added latency at idle over the sum of model times, per hop (one message between two processes), and CPU per request:
clients of the native protocol, HTTP and gRPC against chains of emulated models, one request at a time.

What the emulated models' timers add is the machine's, not ours: its mean is printed and taken off. What a hop costs
between two bare ZeroMQ processes is printed too: the floor. On a machine that does other work, `nice -n -20` or
`chrt -r 5` before the command comes nearest to an idle one.
"""

from __future__ import annotations

import argparse
import gc
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from statistics import median, quantiles
from tempfile import TemporaryDirectory

import zmq
from msgspec import Struct

from loki_rl.core.options import ClusterOptions
from loki_rl.core.pipeline import Latency, Pipeline, Task, Variant
from loki_rl.serving.client import Client
from loki_rl.serving.launch import LocalPlane

# Bars of the median per hop [us].
BARS_US = {"native": 150.0, "http": 250.0}
MODEL_S = 0.004
WARM = 50
TICK_S = 1 / os.sysconf("SC_CLK_TCK")

# Asks once; whether the request ran every task exactly once, so that its models' time is known.
Ask = Callable[[], bool]


class Row(Struct):
    """added: beyond the models' times, per request [s]. late_s: mean lateness of a model's timer. cpu_us: per request, by
    kind of process."""

    door: str
    depth: int
    added: list[float]
    late_s: float
    cpu_us: dict[str, float]

    @property
    def hops(self) -> int:
        """Client and gateway, gateway and first router, router and worker at each task, router and next, last and gateway;
        a front end stands between client and gateway."""
        return 3 + 3 * self.depth + (0 if self.door == "native" else 2)

    def p50_us(self) -> float:
        return 1e6 * (median(self.added) - self.late_s * self.depth)


def chain(depth: int) -> Pipeline:
    """Tasks one after another, each item with one child, whose models take MODEL_S whatever the batch."""
    times = {1: Latency(MODEL_S, MODEL_S, MODEL_S)}
    tasks = tuple(
        Task(
            f"t{number}",
            (Variant("only", 1.0, times, {f"t{number + 1}": 1.0} if number + 1 < depth else {}),),
            parent=f"t{number - 1}" if number else None,
            entry=0.0 if number else 1.0,
        )
        for number in range(depth)
    )
    return Pipeline("chain", 1.0, tasks, {f"t{depth - 1}": 1.0})


@contextmanager
def native(plane: LocalPlane, _: dict[str, int]) -> Iterator[Ask]:
    with Client(plane.front) as client:
        client.wait_ready()

        def ask() -> bool:
            answer = client.infer()
            assert answer.outcome == "ok", answer
            return len(answer.served) == 1

        yield ask


@contextmanager
def http(_: LocalPlane, ports: dict[str, int]) -> Iterator[Ask]:
    """A bare socket: a client library would cost as much as the whole way."""
    body = b'{"inputs":[]}'
    head = f"POST /v2/models/chain/infer HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    request = head.encode() + body
    with socket.create_connection(("127.0.0.1", ports["http"])) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        def ask() -> bool:
            connection.sendall(request)
            answer = connection.recv(65536)
            while b'"outputs"' not in answer:
                answer += connection.recv(65536)
            return b'"shape":[1]' in answer

        yield ask


@contextmanager
def grpc(_: LocalPlane, ports: dict[str, int]) -> Iterator[Ask]:
    from grpc import insecure_channel
    from tritonclient.grpc import service_pb2, service_pb2_grpc

    with insecure_channel(f"127.0.0.1:{ports['grpc']}") as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        request = service_pb2.ModelInferRequest(model_name="chain")

        def ask() -> bool:
            return list(stub.ModelInfer(request).outputs[0].shape) == [1]

        yield ask


ECHO = """
import sys, zmq
with zmq.Context() as context, context.socket(zmq.PULL) as inbox, context.socket(zmq.PUSH) as outbox:
    inbox.bind(sys.argv[1])
    outbox.connect(sys.argv[2])
    while message := inbox.recv():
        outbox.send(message)
"""
DOORS = {"native": native, "http": http, "grpc": grpc}


def free_ports(*names: str) -> dict[str, int]:
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in names]
    ports = {name: probe.getsockname()[1] for name, probe in zip(names, probes, strict=True)}
    for probe in probes:
        probe.close()
    return ports


def measure(depth: int, requests: int, think_s: float) -> list[Row]:
    ports = free_ports("http", "grpc")
    options = ClusterOptions(chain(depth), depth)
    policy = {"servers": depth, "demand_rps": 10.0}
    rows: list[Row] = []
    plane = LocalPlane(options, policy="static", policy_options=policy, http_port=ports["http"], grpc_port=ports["grpc"])
    with plane:
        for name, door in DOORS.items():
            with door(plane, ports) as ask:
                timed(ask, WARM, think_s)
                before = cpu_s(plane)
                added = [seconds - depth * MODEL_S for seconds in timed(ask, requests, think_s)]
                after = cpu_s(plane)
            spent = {kind: 1e6 * (after[kind] - before[kind]) / requests for kind in after}
            rows.append(Row(name, depth, added, 0.0, spent))
    hosts = [bye for bye in plane.byes.values() if bye.timers]
    late_s = sum(bye.late_s for bye in hosts) / sum(bye.timers for bye in hosts)
    for row in rows:
        row.late_s = late_s
    return rows


def timed(ask: Ask, requests: int, think_s: float) -> list[float]:
    gc.collect()
    gc.disable()
    seconds: list[float] = []
    for _ in range(requests):
        time.sleep(think_s)
        begin = time.perf_counter()
        once = ask()
        if once:
            seconds.append(time.perf_counter() - begin)
    gc.enable()
    return seconds


def floor_us(requests: int, think_s: float) -> float:
    """Median time of a hop between two processes that do nothing else."""
    with TemporaryDirectory() as folder:
        there, back = f"ipc://{folder}/there", f"ipc://{folder}/back"
        echo = subprocess.Popen([sys.executable, "-c", ECHO, there, back])
        with zmq.Context() as context, context.socket(zmq.PULL) as inbox, context.socket(zmq.PUSH) as outbox:
            inbox.bind(back)
            outbox.connect(there)

            def ask() -> bool:
                outbox.send(b"x" * 100)
                return bool(inbox.recv())

            found = median(timed(ask, requests, think_s))
            outbox.send(b"")
        echo.wait()
    return 1e6 * found / 2


def cpu_s(plane: LocalPlane) -> dict[str, float]:
    """CPU time of the plane's processes so far, by kind."""
    spent: dict[str, float] = {}
    for name, pid in plane.pids.items():
        with suppress(FileNotFoundError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            kind = name.partition("-")[0]
            spent[kind] = spent.get(kind, 0.0) + TICK_S * (int(fields[11]) + int(fields[12]))
    return spent


def report(rows: list[Row]) -> None:
    print(f"{'door':8}{'tasks':>6}{'hops':>6}{'added p50':>11}{'p90':>8}{'p99':>8}{'timer':>8}{'per hop':>9}  bar")
    for row in rows:
        p50 = row.p50_us()
        high = [1e6 * (cut - row.late_s * row.depth) for cut in quantiles(row.added, n=100)]
        bar = BARS_US.get(row.door)
        verdict = "" if bar is None else f"<= {bar:g} us {'met' if p50 / row.hops <= bar else 'MISSED'}"
        timer = 1e6 * row.late_s
        print(
            f"{row.door:8}{row.depth:6}{row.hops:6}{p50:11.0f}{high[89]:8.0f}{high[98]:8.0f}{timer:8.0f}"
            f"{p50 / row.hops:9.0f}  {verdict}"
        )
    print("\nCPU per request [us], idle (a wake-up costs the most; it falls with load)")
    for row in rows:
        kinds = "  ".join(f"{kind} {us:.0f}" for kind, us in sorted(row.cpu_us.items()) if us >= 1)
        print(f"{row.door:8}{row.depth:6}  all {sum(row.cpu_us.values()):.0f}:  {kinds}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=400)
    parser.add_argument("--tasks", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--think-ms", type=float, default=3.0, help="pause before each request, so that all are asleep")
    chosen = parser.parse_args()
    think_s = chosen.think_ms / 1000
    floor = floor_us(chosen.requests, think_s)
    rows = [row for depth in chosen.tasks for row in measure(depth, chosen.requests, think_s)]
    print(f"load average {os.getloadavg()[0]:.1f}, {chosen.think_ms:g} ms between requests, bare hop {floor:.0f} us")
    report(rows)


if __name__ == "__main__":
    main()
