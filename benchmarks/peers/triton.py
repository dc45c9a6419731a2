"""Triton's server out of the wheel of nvidia-pytriton: its model repository and its command line. Owns both; must not start
it."""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from pathlib import Path

from benchmarks.peers.environment import PeerError
from benchmarks.peers.pass_through import WIDTH
from benchmarks.peers.work import Work

PROJECT = Path(__file__).resolve().parents[2]
# The backend's process does not heed PYTHONPATH.
MODEL = f"""import sys

sys.path.append({str(PROJECT)!r})
from benchmarks.peers.servers.triton_stage import TritonPythonModel
"""
# Pictures under way at once, each in a process that waits for both models; Triton queues the others.
PICTURES = 8


def command(python: Path, repository: Path, http: int, grpc: int) -> tuple[list[str], dict[str, str]]:
    """The server's command and its environment. Raises PeerError if the wheel is laid out in another way."""
    packages = python.parents[1] / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    server = packages / "pytriton" / "tritonserver"
    binary = server / "bin" / "tritonserver"
    _place_stub(server)
    options = {
        "model-repository": repository,
        "backend-directory": server / "backends",
        "cache-directory": server / "caches",
        "http-address": "127.0.0.1",
        "grpc-address": "127.0.0.1",
        "http-port": http,
        "grpc-port": grpc,
        "allow-metrics": "false",
    }
    libraries = f"{packages / 'nvidia_pytriton.libs'}:{sysconfig.get_config_var('LIBDIR')}"
    environment = {
        "LD_LIBRARY_PATH": libraries,
        "PATH": f"{python.parent}:{os.environ['PATH']}",
    }
    return [str(binary), *(f"--{name}={value}" for name, value in options.items())], environment


def _place_stub(server: Path) -> None:
    """The process of a python model lies beside the backend, for the Python that runs it."""
    name = "triton_python_backend_stub"
    stub = server / "python_backend_stubs" / f"{sys.version_info.major}.{sys.version_info.minor}" / name
    if not stub.is_file():
        raise PeerError(f"nvidia-pytriton has no process for this Python ({stub} is missing); run this with another one")
    shutil.copy2(stub, server / "backends" / "python" / name)


def write_repository(folder: Path, work: Work, spec: Path) -> Path:
    """Two models and an ensemble of them, or two models and one that calls them for each picture."""
    shutil.rmtree(folder, ignore_errors=True)
    if work.kind == "null":
        rows = [("x", "TYPE_FP32", WIDTH)], [("y", "TYPE_FP32", WIDTH)]
        for part, stage in zip("ab", work.stages, strict=True):
            inner = [("in", "TYPE_FP32", WIDTH)], [("out", "TYPE_FP32", WIDTH)]
            _python_model(folder, f"null_{part}", part, spec, *inner, stage.batch, work.replicas, BATCHED)
        _write(folder, "null", _head("null", *rows, work.stages[0].batch) + ENSEMBLE + 'platform: "ensemble"\n')
        return folder.absolute()
    detection, recognition = work.stages
    picture, crops = [("in", "TYPE_UINT8", -1)], [("out", "TYPE_STRING", -1)]
    line = [("in", "TYPE_STRING", 1)], [("out", "TYPE_STRING", 1)]
    timed = TIMED.format(round(1e6 * work.slo_s))
    _python_model(folder, "detection", "detection", spec, picture, crops, 0, work.replicas, "")
    _python_model(folder, "recognition", "recognition", spec, *line, recognition.batch, work.replicas, BATCHED)
    _python_model(folder, "reading", "reading", spec, picture, crops, detection.batch, PICTURES, timed)
    return folder.absolute()


BATCHED = "dynamic_batching {}\n"
# What has waited for so long is refused.
TIMED = "dynamic_batching {{ default_queue_policy {{ timeout_action: REJECT default_timeout_microseconds: {} }} }}\n"
ENSEMBLE = """ensemble_scheduling { step [
  { model_name: "null_a" model_version: -1 input_map { key: "in" value: "x" } output_map { key: "out" value: "mid" } },
  { model_name: "null_b" model_version: -1 input_map { key: "in" value: "mid" } output_map { key: "out" value: "y" } }
] }
"""
Tensors = list[tuple[str, str, int]]


def _python_model(
    folder: Path, name: str, part: str, spec: Path, takes: Tensors, gives: Tensors, batch: int, count: int, scheduling: str
) -> None:
    parameters = "".join(
        f'parameters {{ key: "{key}" value: {{ string_value: "{value}" }} }}\n'
        for key, value in (("part", part), ("spec", spec))
    )
    instances = f"instance_group [ {{ count: {count} kind: KIND_CPU }} ]\n"
    _write(folder, name, _head(name, takes, gives, batch) + 'backend: "python"\n' + instances + parameters + scheduling)
    (folder / name / "1" / "model.py").write_text(MODEL)


def _head(name: str, takes: Tensors, gives: Tensors, batch: int) -> str:
    def sides(word: str, tensors: Tensors) -> str:
        rows = ", ".join(f'{{ name: "{tensor}" data_type: {kind} dims: [ {size} ] }}' for tensor, kind, size in tensors)
        return f"{word} [ {rows} ]\n"

    return f'name: "{name}"\nmax_batch_size: {batch}\n{sides("input", takes)}{sides("output", gives)}'


def _write(folder: Path, name: str, text: str) -> None:
    (folder / name / "1").mkdir(parents=True)
    (folder / name / "config.pbtxt").write_text(text)
