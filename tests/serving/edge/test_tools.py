"""Standard tools against *reading* with real models, unmodified: tritonclient over HTTP and gRPC, and perf_analyzer."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http
import zmq

from loki_rl.core.options import ClusterOptions
from loki_rl.files.config import load_pipeline
from loki_rl.reading.scenes import Scene, scenes
from loki_rl.serving.process.launch import LocalPlane

PIPELINE = """
name: reading
slo_ms: 5000
provenance: assumed
servers: 2
swap: make
repository: {repository}
leaf_weights: {{recognition: 1}}
tasks:
  detection:
    entry: 1
    adapter: loki_rl.reading.detection:TextDetection
    variants:
      d480:
        model: det_tiny
        options: {{height: 320, width: 480}}
        accuracy: 0.8
        latency_ms: {{1: 20}}
        fanout: {{recognition: 4}}
        load_s: 0.3
  recognition:
    parent: detection
    adapter: loki_rl.reading.recognition:TextRecognition
    variants:
      rt160:
        model: rec_tiny
        options: {{width: 160, dictionary: ppocrv6_tiny_dict.txt}}
        accuracy: 0.8
        latency_ms: {{1: 3, 2: 5, 4: 9}}
        load_s: 0.3
"""


class Served:
    """Addresses of a plane that reads."""

    def __init__(self, plane: LocalPlane, http: int, grpc: int) -> None:
        self.plane = plane
        self.http = f"127.0.0.1:{http}"
        self.grpc = f"127.0.0.1:{grpc}"


@pytest.fixture(scope="module")
def served(repository: Path) -> Iterator[Served]:
    folder = Path(tempfile.mkdtemp(prefix="lt-"))
    (folder / "reading.yaml").write_text(PIPELINE.format(repository=repository))
    with zmq.Context() as context, context.socket(zmq.PAIR) as probe, context.socket(zmq.PAIR) as other:
        http, grpc = (socket.bind_to_random_port("tcp://127.0.0.1") for socket in (probe, other))
    plane = LocalPlane(
        ClusterOptions(load_pipeline(str(folder / "reading.yaml")).pipeline, 2),
        engine="onnx",
        pipeline_file=str(folder / "reading.yaml"),
        policy="static",
        policy_options={"servers": 2, "demand_rps": 5.0},
        http_port=http,
        grpc_port=grpc,
    )
    with plane:
        yield Served(plane, http, grpc)
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def scene(fonts: tuple[Path, ...]) -> Scene:
    return next(iter(scenes(1, 7, fonts)))


@pytest.mark.parametrize("binary", [True, False])
def test_triton_client_over_http_reads(served: Served, scene: Scene, binary: bool) -> None:
    module: Any = tritonclient.http
    tensor = module.InferInput("image", [1], "BYTES")
    data = scene.jpeg if binary else base64.b64encode(scene.jpeg)
    tensor.set_data_from_numpy(np.array([data], object), binary_data=binary)
    wanted = [module.InferRequestedOutput("text", binary_data=binary)]
    with module.InferenceServerClient(served.http) as client:
        result = client.infer("reading", [tensor], outputs=wanted, request_id="7")
    parameters = result.get_response()["parameters"]
    assert parameters["accuracy"] == pytest.approx(0.64)
    assert parameters["slack_ms"] == pytest.approx(5000 - parameters["latency_ms"])
    check(result.as_numpy("text").tolist(), parameters["served"], scene)


@pytest.mark.parametrize("pixels", [True, False])
def test_triton_client_over_grpc_reads(served: Served, scene: Scene, pixels: bool) -> None:
    module: Any = tritonclient.grpc
    data = np.frombuffer(scene.jpeg, np.uint8) if pixels else np.array([scene.jpeg], object)
    tensor = module.InferInput("image", list(data.shape), "UINT8" if pixels else "BYTES").set_data_from_numpy(data)
    with module.InferenceServerClient(served.grpc) as client:
        result = client.infer("reading", [tensor], request_id="7")
    check(result.as_numpy("text").tolist(), result.get_response().parameters["served"].string_param, scene)


def check(texts: list[bytes | str], path: str, scene: Scene) -> None:
    """Most lines of the scene are among what was read."""
    read = {json.loads(text)["text"] for text in texts}
    assert path.split(",") == ["d480/rt160"] * len(texts)
    true = {line.text for line in scene.lines}
    assert len(true & read) >= len(true) / 2, (true, read)


ANALYZER = shutil.which("perf_analyzer", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
needs_analyzer = pytest.mark.skipif(ANALYZER is None, reason="perf_analyzer is not installed (pip install perf-analyzer)")


@needs_analyzer
@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_perf_analyzer_reports_every_stage(served: Served, scene: Scene, protocol: str, tmp_path: Path) -> None:
    element = struct.pack("<I", len(scene.jpeg)) + scene.jpeg
    inputs = tmp_path / "inputs.json"
    inputs.write_text(json.dumps({"data": [{"image": {"b64": base64.b64encode(element).decode()}}]}))
    url = served.http if protocol == "http" else served.grpc
    command = [ANALYZER, "-m", "reading", "-i", protocol, "-u", url, "--input-data", str(inputs)]
    command += ["--measurement-mode", "count_windows", "--measurement-request-count", "5", "--max-trials", "3"]
    # One stable window is enough: this is about what is reported, not about speed.
    command += ["--stability-percentage", "999", "--concurrency-range", "1"]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False, timeout=60)
    report = done.stdout + done.stderr
    assert done.returncode == 0, report
    assert re.search(r"Throughput: [\d.]+ infer/sec", report), report
    for stage in ("detection", "recognition"):
        found = re.search(rf"reading\.{stage}, version: 1\s+Inference count: (\d+).*?compute infer (\d+) usec", report, re.S)
        assert found is not None, report
        assert int(found[1]) > 0
        assert int(found[2]) > 0
