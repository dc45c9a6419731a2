"""Requests that make a model hang or end its worker's process, beside innocent ones: over HTTP, with real ONNX sessions."""

from __future__ import annotations

import tempfile
import time
from math import floor
from pathlib import Path

import msgspec
import onnx
from msgspec import Struct
from msgspec.structs import replace
from onnx import TensorProto, helper

from benchmarks.faults import planes
from benchmarks.faults.checks import Check
from benchmarks.faults.poisoned import ABORT, HANG, INNOCENT, payload
from benchmarks.host import load_average
from loki_rl.control.allocator.allocate import allocate
from loki_rl.control.formulation.request import Request
from loki_rl.core.messages import Outcome
from loki_rl.core.options import ClusterOptions
from loki_rl.core.pipeline import Latency, Pipeline, Task, Variant
from loki_rl.core.requests.items import QoS
from loki_rl.serving.engines.files import model_path, write_whole
from loki_rl.serving.load.http_sender import HttpSender
from loki_rl.serving.load.open_loop import LOST_S, OpenLoop, Record, lag_ms
from loki_rl.serving.process.launch import LocalPlane

WORKERS, INNOCENT_RPS, SLO_S = 4, 20.0, 2.0
POISON = (HANG, ABORT, ABORT)
BEFORE_S, AFTER_S = 4.0, 12.0
# From so long after the poison came everything innocent is served again.
HEALED_S = 3.0
FILE = """name: mean
slo_ms: 2000
provenance: measured
source: a benchmark
servers: 4
repository: models
leaf_weights: {mean: 1}
tasks:
  mean:
    entry: 1
    adapter: benchmarks.faults.poisoned:Poisoned
    variants:
      only: {model: mean, accuracy: 1.0}
"""


class Found(Struct):
    """at: when the poison came [s]. poisoned: how it ended. whole: whether all processes run at the end."""

    at: float
    records: list[Record]
    poisoned: list[Outcome | None]
    whole: bool
    conserved: bool


def poison() -> list[Check]:
    """One request that hangs and two that abort, all at once."""
    with tempfile.TemporaryDirectory() as folder:
        found = _run(Path(folder))
    slowest = max(record.ended - record.due for record in found.records if record.ends)
    print(f"poison: one request hangs, two abort; {WORKERS} workers, {INNOCENT_RPS:g} innocent requests/s beside")
    print(f"  ok [%] by second from {-BEFORE_S:.0f} s: {' '.join(_shares(found))}; slowest answer {slowest:.2f} s")
    print(f"  send lag p99 {lag_ms(found.records):.1f} ms, {load_average()}")
    ended = ", ".join("no end" if outcome is None else outcome.name.lower() for outcome in found.poisoned)
    print(f"  the poisoned requests: {ended}", flush=True)
    unfailed = sum(outcome is not Outcome.FAILED for outcome in found.poisoned)
    healed = [record.ok(SLO_S) for record in found.records if record.due >= found.at + HEALED_S]
    bad = 100 * healed.count(False) / max(1, len(healed))
    return [
        Check(f"poison: innocent requests violated from {HEALED_S:g} s on", bad, 0.0, " %"),
        Check("poison: plane dead or incomplete", float(not found.whole), 0.0, digits=0),
        Check("poison: poisoned requests that did not fail", unfailed, 0.0, digits=0),
        Check("poison: requests without exactly one outcome", float(not found.conserved), 0.0, digits=0),
    ]


def _run(folder: Path) -> Found:
    port = planes.free_port()
    url = f"http://127.0.0.1:{port}"
    with _plane(folder, port) as plane:
        processes = len(plane.pids)
        planes.await_whole(plane, processes, WORKERS)
        innocent = HttpSender(url, "mean", [payload(INNOCENT)], SLO_S)
        with OpenLoop([innocent], INNOCENT_RPS) as loop:
            time.sleep(BEFORE_S)
            at = time.monotonic()
            poisoned = _send_poison(url)
            time.sleep(max(0.0, at + AFTER_S - time.monotonic()))
            records = loop.stop()
        planes.await_whole(plane, processes, WORKERS)
        whole = len(plane.pids) == processes and not plane.failure
        return Found(at, records, poisoned, whole, planes.conserved(plane, len(records) + len(POISON)))


def _send_poison(url: str) -> list[Outcome | None]:
    """How each ended, None where it did not."""
    sender = HttpSender(url, "mean", [payload(kind) for kind in POISON], SLO_S)
    for number in range(len(POISON)):
        sender.send(number, QoS())
    ends: dict[int, Outcome] = {}
    limit = time.monotonic() + LOST_S
    while len(ends) < len(POISON) and time.monotonic() < limit:
        ends.update((seen.number, seen.outcome) for seen in sender.poll())
        time.sleep(0.01)
    sender.close()
    return [ends.get(number) for number in range(len(POISON))]


def _plane(folder: Path, port: int) -> LocalPlane:
    write_whole(model_path(folder / "models", "mean"), _model().SerializeToString())
    (folder / "mean.yaml").write_text(FILE)
    variant = Variant("only", 1.0, {1: Latency(0.01, 0.01, 0.01), 4: Latency(0.02, 0.02, 0.02)}, load_s=0.2)
    pipeline = Pipeline("mean", SLO_S, (Task("mean", (variant,), entry=1.0),), {"mean": 1.0})
    plan = allocate(pipeline, Request(INNOCENT_RPS, WORKERS))
    plan = replace(plan, placements=(replace(plan.placements[0], replicas=WORKERS),), servers=WORKERS)
    return LocalPlane(
        ClusterOptions(pipeline, WORKERS),
        engine="onnx",
        pipeline_file=str(folder / "mean.yaml"),
        policy="held",
        policy_factory="benchmarks.load:held",
        policy_options={"plans": msgspec.to_builtins([plan])},
        http_port=port,
    )


def _model() -> onnx.ModelProto:
    """values [N, 192] -> mean [N, 1]"""
    nodes = [helper.make_node("ReduceMean", ["values"], ["mean"], axes=[1], keepdims=1)]
    values = helper.make_tensor_value_info("values", TensorProto.FLOAT, ["N", 192])
    mean = helper.make_tensor_value_info("mean", TensorProto.FLOAT, ["N", 1])
    graph = helper.make_graph(nodes, "mean", [values], [mean])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _shares(found: Found) -> list[str]:
    """Of the innocent requests by the second in which they were due."""
    seconds: dict[int, list[bool]] = {}
    for record in found.records:
        seconds.setdefault(floor(record.due - found.at), []).append(record.ok(SLO_S))
    return [f"{100 * sum(oks) / len(oks):.0f}" for _, oks in sorted(seconds.items())]
