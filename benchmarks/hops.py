"""Where the time of a request goes: the null chain (two models that do nothing) over HTTP, one request at a time, from the
client's clock and what the plane's processes record on the same one: each way from actor to actor. And the processor time of
each process a request, at this and at a higher concurrency: the budget of a stage. Both layouts, in turns."""

from __future__ import annotations

import argparse
import gc
import json
import socket
import threading
import time
from collections import defaultdict
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np
from msgspec import Struct

from benchmarks.peers.pass_through import WIDTH
from benchmarks.peers.work import null_chain
from benchmarks.router import cpu_s
from loki_rl.core.options import ClusterOptions
from loki_rl.files.config import PipelineFile, load_pipeline
from loki_rl.flight.columns import Flight, read_flight
from loki_rl.runs.options import RunOptions
from loki_rl.runs.recorded.recording import begin_recording
from loki_rl.serving.plane import Layout
from loki_rl.serving.process.launch import LocalPlane
from loki_rl.serving.process.launcher import Launcher

LAYOUTS: tuple[Layout, ...] = ("compact", "spread")
TASKS = 2
WARM = 100
PLENTY = 16


class Sent(Struct):
    """One request, on the clock of the plane's processes [s]."""

    sent: float
    answered: float


class Run(Struct):
    """One plane's requests. spent: processor time of each process a request [us], by requests in flight."""

    layout: Layout
    ways_us: dict[str, float]
    spent: dict[int, dict[str, float]]
    rates: dict[int, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    chosen = parser.parse_args()
    with TemporaryDirectory() as folder:
        file = load_pipeline(null_chain(Path(folder)).pipeline)
        runs = [measure(file, layout, chosen.requests) for _ in range(chosen.rounds) for layout in LAYOUTS]
    for layout in LAYOUTS:
        report(layout, [run for run in runs if run.layout == layout])


def measure(file: PipelineFile, layout: Layout, requests: int, launcher: Launcher | None = None) -> Run:
    """Start a plane, ask, stop it, and read what it recorded."""
    options = ClusterOptions(file.pipeline, 2)
    with TemporaryDirectory() as folder:
        recording = begin_recording(Path(folder, "flight"), options, RunOptions(pipeline=str(file.path), driver="onnx"))
        plane = LocalPlane(
            options,
            engine="onnx",
            pipeline_file=str(file.path),
            policy="static",
            policy_options={"servers": 2, "demand_rps": 50.0},
            http_port=0,
            layout=layout,
            launcher=launcher,
            recording=recording,
        )
        spent, rates = {}, {}
        with plane:
            assert plane.http_port is not None
            request = http_request(file.pipeline.name)
            ask(plane.http_port, request, WARM)
            for flying in (PLENTY, 1):
                before, began = {name: cpu_s(pid) for name, pid in plane.pids.items()}, time.monotonic()
                sent = together(plane.http_port, request, requests, flying)
                rates[flying] = len(sent) / (time.monotonic() - began)
                spent[flying] = {name: 1e6 * (cpu_s(pid) - before[name]) / len(sent) for name, pid in plane.pids.items()}
        return Run(layout, ways_us(sent, read_flight(recording)[1]), spent, rates)


def http_request(name: str) -> bytes:
    tensor = {"name": "x", "datatype": "FP32", "shape": [WIDTH], "parameters": {"binary_data_size": 4 * WIDTH}}
    body = json.dumps({"inputs": [tensor]}).encode()
    head = f"POST /v2/models/{name}/infer HTTP/1.1\r\nHost: x\r\nInference-Header-Content-Length: {len(body)}\r\n"
    data = np.ones(WIDTH, np.float32).tobytes()
    return f"{head}Content-Length: {len(body) + len(data)}\r\n\r\n".encode() + body + data


def together(port: int, request: bytes, requests: int, flying: int) -> list[Sent]:
    """So many in flight, each on a connection of its own."""
    found: list[Sent] = []
    threads = [threading.Thread(target=lambda: found.extend(ask(port, request, requests // flying))) for _ in range(flying)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sorted(found, key=lambda one: one.sent)


def ask(port: int, request: bytes, requests: int) -> list[Sent]:
    """One after the other, over a bare socket: a client library would cost as much as the whole way."""
    found: list[Sent] = []
    gc.disable()
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(requests):
            sent = time.monotonic()
            connection.sendall(request)
            answer = b""
            while b'"outputs"' not in answer or not answer.endswith(b"}"):
                part = connection.recv(65536)
                assert part.startswith(b"HTTP/1.1 200") or answer, part
                answer += part
            found.append(Sent(sent, time.monotonic()))
    gc.enable()
    return found


def ways_us(sent: list[Sent], flight: Flight) -> dict[str, float]:
    """Medians over requests that were alone; each way by its name [us]."""
    found: dict[str, list[float]] = defaultdict(list)
    for one in sent:
        for name, seconds in _ways(one, flight).items():
            found[name].append(1e6 * seconds)
    return {name: median(seconds) for name, seconds in found.items()}


def _ways(one: Sent, flight: Flight) -> dict[str, float]:
    """From the times of all that happened while this request was under way, if all did once per task."""
    arrived, answered = (_within(rows["at"], one) for rows in (flight.arrivals, flight.answers))
    handed, returned = (_within(rows["at"], one) for rows in (flight.handed, flight.returned))
    begun, ended = (_within(flight.services[name], one) for name in ("begin", "end"))
    if [len(times) for times in (arrived, answered, handed, returned, begun, ended)] != [1, 1, TASKS, TASKS, TASKS, TASKS]:
        return {}
    ways = {"client, HTTP -> gateway": arrived[0] - one.sent, "gateway -> first router": handed[0] - arrived[0]}
    ways["router -> worker"] = sum(begin - hand for hand, begin in zip(handed, begun, strict=True)) / TASKS
    ways["engine's thread and back"] = sum(end - begin for begin, end in zip(begun, ended, strict=True)) / TASKS
    ways["worker -> router"] = sum(back - end for end, back in zip(ended, returned, strict=True)) / TASKS
    for task in range(1, TASKS):
        ways[f"router {task} -> router {task + 1}"] = handed[task] - returned[task - 1]
    ways["last router -> gateway"] = answered[0] - returned[-1]
    ways["gateway -> HTTP, client"] = one.answered - answered[0]
    return {**ways, "all": one.answered - one.sent}


def _within(times: np.ndarray, one: Sent) -> list[float]:
    low, high = np.searchsorted(times, (one.sent, one.answered))
    found: list[float] = times[low:high].tolist()
    return found


def report(layout: Layout, runs: list[Run]) -> None:
    print(f"\n{layout}: a request alone, medians of {len(runs)} rounds [us]")
    for name in runs[0].ways_us:
        print(f"  {name:26}{median(run.ways_us[name] for run in runs):8.0f}")
    for flying in (1, PLENTY):
        rate = median(run.rates[flying] for run in runs)
        spent = {name: median(run.spent[flying][name] for run in runs) for name in runs[0].spent[flying]}
        parts = "  ".join(f"{name} {us:.0f}" for name, us in spent.items() if us >= 1)
        print(f"  {flying:2} in flight: {rate:6.0f}/s; CPU a request {sum(spent.values()):.0f} us: {parts}")


if __name__ == "__main__":
    main()
