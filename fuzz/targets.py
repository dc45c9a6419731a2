"""What is fuzzed: every parser of what others wrote, the errors that it may raise, and good inputs to begin with."""

from __future__ import annotations

import struct
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

from google.protobuf.message import DecodeError

from fuzz import seeds
from loki_rl.control.learned.agent import load_agent
from loki_rl.core.journal import replay
from loki_rl.decoding import UNREADABLE
from loki_rl.env.calibrated import Host
from loki_rl.env.faults import check_faults, load_faults
from loki_rl.env.fluid.means import means_of
from loki_rl.env.histogram import read_histogram
from loki_rl.errors import UserError
from loki_rl.files.calibration_file import load_calibration
from loki_rl.files.config import PipelineFile, load_pipeline
from loki_rl.files.pool_file import load_pool
from loki_rl.files.profile_file import ProfileFile, by_variant
from loki_rl.runs.options import read_options
from loki_rl.serving.edge import oip, rpc_codec
from loki_rl.serving.edge.oip_tensors import InferError
from loki_rl.serving.edge.steps import at_once
from loki_rl.serving.edge.zmtp import Watch, ZmtpError
from loki_rl.serving.engines.model_repository import CONFIG, find_model
from loki_rl.serving.gateway.schema import describe
from loki_rl.serving.profiling.worker_log import read_workers
from loki_rl.serving.transport import protocol, wire
from loki_rl.serving.transport.protocol import MAX_MESSAGE_BYTES, MessageError, Tensor
from loki_rl.serving.transport.wire import WireError
from loki_rl.traces.arrivals import requests
from loki_rl.traces.demand import TraceOptions
from loki_rl.traces.trace import load_trace

DESCRIBED = describe(
    seeds.PIPELINE, "emulated", Tensor("input", "BYTES", (1,), optional=True), Tensor("path", "BYTES", (-1,))
)
# What a corpus keeps is small.
INFLATED_BYTES = 1 << 20


class Target(NamedTuple):
    """parse: answers an input with whatever it is, or raises one of `errors`. form: as in mutations.FORMS."""

    parse: Callable[[bytes], object]
    errors: tuple[type[Exception], ...]
    seeds: Callable[[], list[bytes]]
    form: str = "bytes"


@contextmanager
def _file(name: str, data: bytes) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="fuzz-", dir=_MEMORY if _MEMORY.is_dir() else None) as folder:
        path = Path(folder, name)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        yield path


_MEMORY = Path("/dev/shm")


def _body(data: bytes) -> object:
    length = struct.unpack_from("<H", data)[0] if len(data) >= 2 else 0xFFFF
    return at_once(oip.parse(data[2:], None if length == 0xFFFF else str(length), DESCRIBED))


def _call(data: bytes) -> object:
    from tritonclient.grpc import service_pb2 as pb

    rpc_codec.check_size(data)
    try:
        message = pb.ModelInferRequest.FromString(data)
    except DecodeError:  # which the interceptor answers
        return None
    return at_once(rpc_codec.read_request(message, DESCRIBED))


def _connection(data: bytes) -> None:
    """Cut in two wherever its first byte says."""
    watch, at = Watch(3, MAX_MESSAGE_BYTES), data[0] if data else 0
    watch.feed(data[:at])
    watch.feed(data[at:])


def _pipeline(data: bytes) -> None:
    with _file("p.yaml", data) as path:
        pipeline = load_pipeline(path).pipeline
    _ = (pipeline.latencies, pipeline.best_accuracy, pipeline.fanouts)


@cache
def _small() -> PipelineFile:
    with _file("p.yaml", seeds.PIPELINE_YAML) as path:
        return load_pipeline(path)


def _pool(data: bytes) -> None:
    with _file("pool.yaml", data) as path:
        load_pool(path, [_small()])


def _faults(data: bytes) -> None:
    with _file("faults.yaml", data) as path:
        check_faults(load_faults(path), seeds.PIPELINE, 3)


def _histogram(data: bytes) -> None:
    with _file("fanout.csv", data) as path:
        read_histogram(path)


def _profile(data: bytes) -> None:
    with _file("profile.json", data) as path:
        by_variant(ProfileFile.load(path))


def _calibration(data: bytes) -> None:
    with _file("calibration.json", data) as path:
        found = load_calibration(path, seeds.PIPELINE)
        means_of(found, seeds.FLEET, 3, 1.0)
        Host(found, "exact", seeds.OPTIONS, 0.0, lambda *_: None)


def _model_config(data: bytes) -> None:
    with _file(f"r1/{CONFIG}", data) as path:
        model = path.parent / "2" / "model.onnx"
        model.parent.mkdir()
        model.touch()
        find_model(path.parent.parent, "r1")


def _trace(name: str, data: bytes) -> None:
    with _file(name, data) as path:
        requests(load_trace(path), TraceOptions(), seed=0)


def _worker_log(data: bytes) -> None:
    with _file("workers-0.0.journal", data) as path:
        read_workers(path.parent)


def _agent(name: str, data: bytes) -> None:
    with _file(name, data) as path:
        load_agent(path)


TARGETS: dict[str, Target] = {
    "letters": Target(lambda data: wire.decode_letters(memoryview(data), []), (WireError,), seeds.letters, "msgpack"),
    "words": Target(lambda data: wire.decode_control(memoryview(data)), (WireError,), seeds.words, "msgpack"),
    "tensor": Target(wire.unpack, (WireError,), seeds.tensors),
    "request": Target(protocol.decode_request, (MessageError,), seeds.requests, "versioned msgpack"),
    "response": Target(protocol.decode_response, (MessageError,), seeds.responses, "versioned msgpack"),
    "connection": Target(_connection, (ZmtpError,), seeds.connections),
    "oip": Target(_body, (InferError,), seeds.bodies),
    "oip_json": Target(lambda data: at_once(oip.parse(data, None, DESCRIBED)), (InferError,), seeds.json_bodies, "json"),
    "inflate": Target(lambda data: at_once(oip.inflate(data, "gzip", INFLATED_BYTES)), (InferError,), seeds.packed_bodies),
    "grpc": Target(_call, (InferError,), seeds.calls),
    "pipeline": Target(_pipeline, (UserError,), lambda: [seeds.PIPELINE_YAML], "text"),
    "pool": Target(_pool, (UserError,), lambda: [seeds.POOL_YAML], "text"),
    "faults": Target(_faults, (UserError,), lambda: [seeds.FAULTS_YAML], "text"),
    "histogram": Target(_histogram, (UserError,), lambda: [seeds.HISTOGRAM], "text"),
    "profile": Target(_profile, (UserError,), seeds.profiles, "json"),
    "calibration": Target(_calibration, (UserError,), seeds.calibrations, "json"),
    "run_options": Target(read_options, UNREADABLE, seeds.run_options, "json"),
    "model_config": Target(_model_config, (UserError,), lambda: [seeds.MODEL_CONFIG], "text"),
    "trace": Target(partial(_trace, "t.csv"), (UserError,), seeds.traces, "text"),
    "packed_trace": Target(partial(_trace, "t.csv.gz"), (UserError,), seeds.packed_traces),
    "journal": Target(lambda data: replay([data]), (UserError,), seeds.journals, "journal"),
    "worker_log": Target(_worker_log, (UserError,), seeds.journals, "journal"),
    "agent": Target(partial(_agent, "agent.npz"), (UserError,), seeds.agents, "archive"),
    "onnx_agent": Target(partial(_agent, "agent.onnx"), (UserError,), seeds.onnx_agents),
}
