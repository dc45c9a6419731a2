"""A comparison and a plane from outside of a Ray cluster, through the server for its clients."""

from __future__ import annotations

import os
import signal
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

# How long a client seeks a cluster that is gone, and then its plane ends [s].
LOST_S = 60.0

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(ray_hosts: RayHosts, tmp_path: Path) -> Start:
    def started(*words: object) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "loki_rl", *map(str, words), "--launcher", "ray", "--address", ray_hosts.front]
        return subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    return started


def test_runs_and_a_plane_from_outside(start: Start, ray_hosts: RayHosts, small: Path, crowd: Path, tmp_path: Path) -> None:
    with start("compare", small, "--trace", crowd, "--policies", "static,hardware", "--logdir", tmp_path) as runs:
        out, err = runs.communicate(timeout=120)
    assert (runs.returncode, "Traceback" in err) == (0, False), err
    assert "hardware" in out

    at = f"http://127.0.0.1:{(port := held_port())}/v2"
    with start("serve", small, "--workers", 2, "--http-port", port) as plane:
        try:
            eventually(lambda: answers(f"{at}/health/ready"), "the plane is not ready")
            assert answers(f"{at}/models/small/infer", b'{"inputs": []}')
            ray_hosts.lose_front()
            _, err = plane.communicate(timeout=LOST_S)
        finally:
            with suppress(ProcessLookupError):
                os.kill(plane.pid, signal.SIGKILL)
    assert plane.returncode == 1
    assert "loki-rl: the connection to the Ray cluster is lost" in err.splitlines()[-1]
    assert "Traceback" not in err
    eventually(lambda: ray.available_resources().get("CPU") == ray.cluster_resources()["CPU"], "its actors are still there")


def answers(url: str, body: bytes | None = None) -> bool:
    with suppress(URLError, ConnectionError), urlopen(url, body, timeout=10) as response:
        return bool(response.status == 200)
    return False
