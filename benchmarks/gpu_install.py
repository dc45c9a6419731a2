"""Does the extra `gpu` resolve, and does its ONNX Runtime install and answer on a host without CUDA? One JSON object; exit
code 1 if not. Needs the network, and 1 GB of disk for an environment that goes again.

Nothing of CUDA is installed: what is asked is whether the wheel loads at all, knows its providers, runs on the CPU, and
whether a session on a GPU that is not there is refused in a sentence instead of falling back.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

ROOT = Path(__file__).parents[1]
NEEDED = ("onnxruntime-gpu", "onnx")

Found = dict[str, Any]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--answer", action="store_true", help="be the environment that was made, and answer")
    if parser.parse_args().answer:
        print(json.dumps(answer()))
        return 0
    with TemporaryDirectory() as name:
        python = _environment(Path(name))
        report: Found = {"resolves": _tried(resolves, python), "installs": _tried(installs, python)}
    report["ok"] = all(found["ok"] for found in report.values())
    print(json.dumps(report, indent=1))
    return 0 if report["ok"] else 1


def resolves(python: Path) -> Found:
    """What pip would install for a host with GPUs. Raises CalledProcessError."""
    command = ["install", "--dry-run", "--ignore-installed", "--quiet", "--report", "-", f"{ROOT}[gpu]"]
    found = json.loads(_pip(python, *command))["install"]
    versions = {one["metadata"]["name"]: one["metadata"]["version"] for one in found}
    wheels = sorted(name for name in versions if name.startswith(("onnxruntime", "nvidia")))
    # Both wheels of ONNX Runtime share a folder and break each other.
    return {
        "ok": "onnxruntime" not in versions and "onnxruntime-gpu" in versions,
        "versions": {n: versions[n] for n in wheels},
    }


def installs(python: Path) -> Found:
    """The wheel without CUDA's libraries, and what it answers. Raises CalledProcessError."""
    _pip(python, "install", "--quiet", str(ROOT), *NEEDED)
    told = subprocess.run(
        [python, "-m", "benchmarks.gpu_install", "--answer"], check=True, capture_output=True, text=True, cwd=ROOT
    )
    # ONNX Runtime prints which of CUDA's libraries it did not find.
    found: Found = json.loads(told.stdout.splitlines()[-1])
    return found


def answer() -> Found:
    """Within the environment: providers, a session on the CPU, and what a session on a GPU is told."""
    import numpy as np
    import onnxruntime as ort

    from loki_rl.serving.engines.device import CUDA, TENSORRT, Device
    from loki_rl.serving.engines.sessions import choose_devices, open_session

    known = ort.get_available_providers()
    with TemporaryDirectory() as name:
        model = _doubling(Path(name) / "double.onnx")
        doubled = open_session(model, Device("cpu")).run(None, {"x": np.array([[1.0, 2.0]], np.float32)})[0]
        refused = _refusal(model)
    chosen = choose_devices("auto")[0].name
    computed = bool((doubled == np.array([[2.0, 4.0]])).all())
    return {
        "ok": {CUDA, TENSORRT} <= set(known) and computed and "was asked for" in refused,
        "onnxruntime": ort.__version__,
        "providers": known,
        "auto": chosen,
        "computes": computed,
        "cuda_is_told": refused,
    }


def _refusal(model: Path) -> str:
    """Of a session on a GPU."""
    from loki_rl.serving.engines.device import Device
    from loki_rl.serving.engines.engine import EngineError
    from loki_rl.serving.engines.sessions import open_session

    try:
        open_session(model, Device("cuda"))
    except EngineError as error:
        return str(error)
    return ""


def _doubling(path: Path) -> Path:
    """A model that adds its input to itself."""
    from onnx import TensorProto, helper, save

    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, 2]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"])], "double", ports[:1], ports[1:])
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def _environment(folder: Path) -> Path:
    venv.create(folder, with_pip=True)
    return folder / "bin" / "python"


def _pip(python: Path, *words: str) -> str:
    done = subprocess.run(
        [python, "-m", "pip", "--disable-pip-version-check", *words], check=True, capture_output=True, text=True
    )
    return done.stdout


def _tried(step: Callable[[Path], Found], python: Path) -> Found:
    try:
        return step(python)
    except subprocess.CalledProcessError as error:
        return {"ok": False, "error": error.stderr.strip().splitlines()[-1] if error.stderr else str(error)}


if __name__ == "__main__":
    sys.exit(main())
