"""Good inputs to begin with, made as the programs make them."""

from __future__ import annotations

import gzip
import struct
from math import inf
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import numpy as np

from loki_rl.agents.export import write_onnx
from loki_rl.control.fast.model_arrays import build_fleet
from loki_rl.control.learned.observation import NO_ADJUSTMENT
from loki_rl.core.journal import Recorder
from loki_rl.core.messages import Arrived, Ended, Outcome, Ready, Submit
from loki_rl.core.options import ClusterOptions
from loki_rl.core.pipeline import Latency, Pipeline, Task, Variant
from loki_rl.core.plan import Placement, Plan
from loki_rl.core.requests.items import Family, QoS, Terms
from loki_rl.env.world import World, run
from loki_rl.files.calibration_file import (
    LEVELS,
    Calibration,
    Contention,
    DelayTimes,
    LoadTimes,
    Median,
    Mood,
    PlanTimes,
    Recorded,
    ServiceTimes,
)
from loki_rl.runs.options import RunOptions
from loki_rl.serving.state import Stage
from loki_rl.serving.transport import protocol, wire
from loki_rl.serving.transport.wire import Letter
from tests.control.cards import agent_file, always, made_up

PROJECT = Path(__file__).resolve().parents[1]
SIZES = {size: Latency(0.004 * size, 0.005 * size, 0.006 * size) for size in (1, 2, 4)}
PIPELINE = Pipeline(
    name="fork",
    slo_s=0.1,
    tasks=(
        Task("find", (Variant("quick", 0.5, SIZES, {"read": 2.0}), Variant("good", 1.0, SIZES, {"read": 2.0})), entry=1.0),
        Task("read", (Variant("only", 0.9, SIZES),), parent="find"),
    ),
    leaf_weights={"read": 1.0},
)
OPTIONS = ClusterOptions(PIPELINE, servers=3, interval_s=1.0)
FLEET = build_fleet(PIPELINE)

PIPELINE_YAML = b"""\
name: small
slo_ms: 200
provenance: published
servers: 3
leaf_weights: {read: 0.75, sort: 0.25}
tasks:
  find:
    entry: 2
    variants:
      quick: {accuracy: 0.5, load_s: 1, fanout: {read: 2, sort: 0.5}, latency_ms: {1: 10, 2: [16, 20], 4: [30, 40, 50]}}
      good: {accuracy: 1, load_s: 2, fanout: {read: 3, sort: 1}, latency_ms: {1: 20}}
  read:
    parent: find
    adapter: some.module:Adapter
    variants:
      r1: {accuracy: 0.9, latency_ms: {1: 5}, model: r1/1, options: {size: [1, 2]}}
  sort:
    parent: find
    variants:
      s1: {accuracy: 0.8, latency_ms: {1: 4}, memory_mb: 20}
path_accuracy:
  - {path: [quick, r1], accuracy: 0.48}
"""
POOL_YAML = (
    b"types:\n  big: {count: 2, price: 2.5, speed: 2, devices: ['cuda:0', 'cuda:1']}\n  small: {count: 3, memory_mb: 100}\n"
)
FAULTS_YAML = b"""\
crashes: [{server: 0, at_s: 10, down_s: 5}]
slow: [{server: 1, factor: 2.5, from_s: 1, to_s: 9}]
unloadable: [{task: find, variant: quick, from_s: -1}]
metric_lag_s: 0.5
service_noise: 0.1
"""
HISTOGRAM = b"task,variant,child,count,weight\nfind,quick,read,0,3\nfind,quick,read,2,1.5\n"
MODEL_CONFIG = b"""\
name: "r1"
backend: "onnxruntime"
max_batch_size: 4
input [{name: "in", data_type: TYPE_FP32, dims: [3, -1]}]
output [{name: "out", data_type: TYPE_STRING, dims: [1]}]
version_policy: {specific {versions: [1, 2]}}
"""
TRACES = (
    b"t_seconds,requests\n0,5\n1,7\n2,0\n",
    b"t_ms,priority,min_accuracy,retries\n10,1,0.5,2\n20.5,0,0,0\n",
    b"HashOwner,HashApp,HashFunction,Trigger,1,2,3\na,b,c,http,0,5,2\nd,e,f,timer,1,1,1\n",
    b"TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03.9799600,374,44\n2023-11-16 18:17:04.03,396,109\n",
    b"Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n5,ChatGPT,472,18,490,Conversation log\n",
    b"timestamp,count\n2021-04-25 17:30:00,5\n2021-04-25 17:31:00,8\n",
    b'"date"\n2021-04-25\n2021-04-26\n',
    b"requests\n3\n4\n",
)


def letters() -> list[bytes]:
    families = [Family(1 << 31, 1.5, 1.6, 0, Terms(0.5, 0.1), 3)]
    one = [Letter("router:0", Submit(families), ()), Letter("router:0", Ready(1, 0, 4, 0, 2), ())]
    ended = Letter("gateway", Ended(1, Outcome.OK, families, 0, [(1, 2)]), [])
    return [bytes(wire.encode_letters(some)[1:]) for some in (one, [ended], [Letter("gateway", Arrived([7], [0.0]), [])])]


def words() -> list[bytes]:
    stage = Stage("find", 2, None, {"quick": 1}, {"late": 2}, {})
    some = (wire.Up("a"), wire.Alive("a", 1, 2.0), wire.Gone("a", "ipc:///b"), wire.PartsRead(1, "a", [stage]))
    return [bytes(wire.encode_control(word)[1:]) for word in some]


def tensors() -> list[bytes]:
    return [wire.pack(np.arange(6, dtype=np.float32).reshape(2, 3)), wire.pack(np.zeros((2, 0, 4), np.uint8))]


def requests() -> list[bytes]:
    return [bytes(protocol.encode(one)) for one in (protocol.Infer(1, "fork", 0.5, 0.1, 2), protocol.BeginRun(2, 5.0))]


def responses() -> list[bytes]:
    refusal = protocol.Refusal("find", 0.1, "quick")
    answer = protocol.Answer(1, "ok", 0.01, 0.9, [["quick", "only"]], 0, "", refusal=refusal)
    return [bytes(protocol.encode(one)) for one in (answer, protocol.LedgerRead(2, b"{}"))]


def bodies() -> list[bytes]:
    """JSON of an infer request; the first two bytes are the length of the header, none of it where they are 0xffff."""
    numbers = {"name": "input", "datatype": "FP32", "shape": [2, 2], "data": [[1, 2.5], [3, 4]]}
    text = {"name": "input", "datatype": "BYTES", "shape": [1], "data": ["aGFsbG8="]}
    terms = {"timeout": 5000, "priority": 1, "min_accuracy": 0.5, "binary_data_output": True}
    plain = [msgspec.json.encode({"id": "1", "parameters": terms, "inputs": [one]}) for one in (numbers, text)]
    declared = {"name": "input", "datatype": "UINT8", "shape": [6], "parameters": {"binary_data_size": 6}}
    header = msgspec.json.encode({"inputs": [declared], "outputs": [{"name": "path"}]})
    return [b"\xff\xff" + one for one in plain] + [struct.pack("<H", len(header)) + header + b"binary"]


def json_bodies() -> list[bytes]:
    return [body[2:] for body in bodies()[:2]]


def packed_bodies() -> list[bytes]:
    return [gzip.compress(b"[" * 1000, mtime=0), gzip.compress(bytes(100_000), mtime=0)]


def calls() -> list[bytes]:
    from tritonclient.grpc import service_pb2 as pb

    request = pb.ModelInferRequest(model_name="fork", id="1")
    request.parameters["timeout"].int64_param = 5000
    tensor = request.inputs.add(name="input", datatype="FP32", shape=[2])
    tensor.contents.fp32_contents.extend([1.0, 2.0])
    raw = pb.ModelInferRequest(model_name="fork", raw_input_contents=[struct.pack("<I", 5) + b"hallo"])
    raw.inputs.add(name="input", datatype="BYTES", shape=[1])
    return [request.SerializeToString(), raw.SerializeToString()]


def connections() -> list[bytes]:
    greeting = bytes([0xFF]) + bytes(8) + bytes([0x7F, 3, 1]) + b"NULL" + bytes(48)
    return [greeting + b"\x04\x06\x05READY" + b"\x01\x02ab" + b"\x00\x03abc"]


def profiles() -> list[bytes]:
    content = msgspec.json.decode((PROJECT / "pipelines/profiles/reading.cpu.json").read_bytes())
    content |= {key: value[:3] for key, value in content.items() if isinstance(value, list)}
    return [msgspec.json.encode(content)]


def calibrations() -> list[bytes]:
    """With a row of every kind."""
    rising = tuple(1.0 + level for level in LEVELS)
    found = Calibration(
        pipeline=PIPELINE.name,
        host="2 cores",
        created="2026-01-01T00:00:00+00:00",
        command="loki-rl calibrate flight",
        recordings=(Recorded("flight", "exact", 3, 60.0, 100, 300),),
        services=(
            ServiceTimes("find", "quick", 40, rising, (Median(1, 5.0),)),
            ServiceTimes("read", None, 40, rising),
            ServiceTimes(None, None, 80, rising),
        ),
        loads=(LoadTimes("find", "quick", 3, rising), LoadTimes(None, None, 3, rising)),
        delays=(DelayTimes("dispatch", 9, rising), DelayTimes("handover_next", 9, rising)),
        plans=(PlanTimes("exact", 9, rising),),
        contention=Contention((1.0, 0.7), 1.5),
        mood=Mood(0.3, 0.5),
    )
    return [msgspec.json.encode(found)]


def run_options() -> list[bytes]:
    return [msgspec.json.encode(RunOptions(pipeline="traffic", from_s=1.0, mean_rps=50.0, seed=3))]


def traces() -> list[bytes]:
    return list(TRACES)


def packed_traces() -> list[bytes]:
    return [gzip.compress(trace, mtime=0) for trace in TRACES[:2]] + [gzip.compress(bytes(1 << 20), mtime=0)]


def journals() -> list[bytes]:
    """A second of a small cluster."""
    chunks: list[bytes] = []
    places = (Placement("find", "quick", 4, 1), Placement("read", "only", 4, 2))
    flows = {"find": {"quick": 1.0}, "read": {"only": 1.0}}
    plan = Plan("accuracy", places, 3, 0.5, 1.0, 100.0, 100.0, {"find": 0.5, "read": 1.0}, flows)
    world = World(OPTIONS, lambda _: plan, start=-1.0)
    world.record = Recorder(chunks.append, OPTIONS, dict.fromkeys(world.slots, 0)).record
    run(world, [k / 30 for k in range(20)], duration_s=1.0, settle_s=0.5)
    asked = Recorder(chunks.append, OPTIONS, {})
    asked.record("gateway", 3.0, Arrived([90], [inf], {90: QoS(0.9, 1)}), [])
    return [b"".join((*chunks[:120], chunks[-1])), b"".join(chunks[:2])]


def agents() -> list[bytes]:
    with TemporaryDirectory() as folder:
        return [Path(agent_file(Path(folder), "traffic")).read_bytes()]


def onnx_agents() -> list[bytes]:
    with TemporaryDirectory() as folder:
        path = Path(folder, "agent.onnx")
        write_onnx(always(NO_ADJUSTMENT, made_up("traffic")), path)
        return [path.read_bytes()]
