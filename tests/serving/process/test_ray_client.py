"""A comparison and a plane from outside of a Ray cluster, through the server for its clients."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest
import ray

from tests.ray_hosts import RayHosts
from tests.serving.driving import eventually, held_port

LIMIT_S = 120.0

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(ray_hosts: RayHosts, tmp_path: Path) -> Start:
    def started(*words: object) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "loki_rl", *map(str, words), "--launcher", "ray", "--address", ray_hosts.front]
        return subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    return started


def test_runs_and_a_plane_from_outside(start: Start, ray_hosts: RayHosts, small: Path, crowd: Path, tmp_path: Path) -> None:
    at = f"http://127.0.0.1:{(port := held_port())}/v2"
    runs = start("compare", small, "--trace", crowd, "--policies", "static,hardware", "--logdir", tmp_path)
    with start("serve", small, "--workers", 2, "--http-port", port) as plane:
        try:
            eventually(lambda: answers(f"{at}/health/ready"), "the plane is not ready")
            assert answers(f"{at}/models/small/infer", b'{"inputs": []}')
            assert "hardware" in ended(runs, 0)[0]
            ray_hosts.lose_front()
            assert "loki-rl: the connection to the Ray cluster is lost" in ended(plane, 1)[1].splitlines()[-1]
        finally:
            plane.kill()
            runs.kill()
    eventually(lambda: ray.available_resources().get("CPU") == ray.cluster_resources()["CPU"], "its actors are still there")


def ended(process: subprocess.Popen[str], code: int) -> tuple[str, str]:
    """What it said."""
    out, err = process.communicate(timeout=LIMIT_S)
    assert (process.returncode, "Traceback" in err) == (code, False), err
    return out, err


def answers(url: str, body: bytes | None = None) -> bool:
    with suppress(URLError, ConnectionError), urlopen(url, body, timeout=10) as response:
        return bool(response.status == 200)
    return False
