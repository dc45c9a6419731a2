"""What the size of a picture costs the processes of a plane: processor time per request of *reading*, by process, for
pictures of 4 KB to 1.8 MB sent as pixels, which lie in shared memory from 64 KB on."""

from __future__ import annotations

import argparse
from pathlib import Path

import msgspec
import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from benchmarks.gpu_check import alternating_plan
from benchmarks.router import cpu_s
from loki_rl.core.options import ClusterOptions
from loki_rl.files.config import load_pipeline
from loki_rl.serving.gateway.client import Client
from loki_rl.serving.process.launch import LocalPlane

# Height and width; three bytes a pixel.
SHAPES = ((36, 36), (240, 416), (400, 500), (640, 960))
WARM = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=100)
    requests = parser.parse_args().requests
    file = load_pipeline("reading")
    if not Path(file.repository, "det_tiny").is_dir():
        print("reading: its models are not there ('loki-rl models fetch reading')")
        return
    plane = LocalPlane(
        ClusterOptions(replace(file.pipeline, slo_s=5.0), 2, interval_s=3600.0),
        engine="onnx",
        pipeline_file=str(file.path),
        policy="held",
        policy_factory="benchmarks.load:held",
        policy_options={"plans": msgspec.to_builtins([alternating_plan("d320", "rt96")])},
    )
    with plane, Client(plane.front) as client:
        client.wait_ready()
        base: dict[str, float] = {}
        for shape in SHAPES:
            spent = per_request(plane, client, np.full((*shape, 3), 200, np.uint8), requests)
            base = base or spent
            parts = "  ".join(f"{name} {us:.0f} (+{us - base[name]:.0f})" for name, us in spent.items() if us >= 50)
            print(f"{3 * shape[0] * shape[1] / 1000:7.0f} KB  all {sum(spent.values()):.0f} us:  {parts}", flush=True)


def per_request(plane: LocalPlane, client: Client, picture: NDArray[np.uint8], requests: int) -> dict[str, float]:
    """Process -> processor time per request [us], one request at a time."""
    for _ in range(WARM):
        client.infer(picture)
    before = {name: cpu_s(pid) for name, pid in plane.pids.items()}
    for _ in range(requests):
        assert client.infer(picture).outcome == "ok"
    return {name: 1e6 * (cpu_s(pid) - before[name]) / requests for name, pid in plane.pids.items()}


if __name__ == "__main__":
    main()
