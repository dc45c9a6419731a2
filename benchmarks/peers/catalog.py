"""The peers: what each needs from PyPI, how each is started, and what its front can do. Owns that list; starts nothing."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from msgspec import Struct

from benchmarks.peers import triton
from benchmarks.peers.process import Launch
from benchmarks.peers.work import Work, write_spec

PROJECT = Path(__file__).resolve().parents[2]


class Ports(Struct, frozen=True):
    http: int
    grpc: int


# (python of the peer's environment, work, ports, folder for what it needs) -> how to start it.
Starter = Callable[[Path, Work, Ports, Path], Launch]


class Peer(Struct, frozen=True):
    """grpc: whether it speaks the protocol over gRPC too. describes: whether it says what it serves, which standard clients
    ask first. batch_axis: whether its pictures come with an axis for the batch."""

    name: str
    title: str
    requirements: tuple[str, ...]
    start: Starter
    grpc: bool = False
    describes: bool = True
    batch_axis: bool = False


def by_module(name: str, ready: str = "/v2/health/ready") -> Starter:
    """A server of ours to run in the peer's environment."""

    def start(python: Path, work: Work, ports: Ports, folder: Path) -> Launch:
        spec = write_spec(work.spec(ports.http), folder / "spec.json")
        command = [str(python), "-m", f"benchmarks.peers.servers.{name}", str(spec)]
        environment = {"PYTHONPATH": str(PROJECT)}
        return Launch(name, command, ports.http, ready, folder / "log", environment, PROJECT)

    return start


def start_triton(python: Path, work: Work, ports: Ports, folder: Path) -> Launch:
    spec = write_spec(work.spec(ports.http), folder / "spec.json")
    repository = triton.write_repository(folder / "models", work, spec)
    command, environment = triton.command(python, repository, ports.http, ports.grpc)
    return Launch("triton", command, ports.http, "/v2/health/ready", folder / "log", environment, folder)


PEERS = {
    peer.name: peer
    for peer in (
        Peer(
            "triton",
            "NVIDIA Triton",
            ("nvidia-pytriton>=0.5.14,<1",),
            start_triton,
            grpc=True,
            batch_axis=True,
        ),
        Peer("ray_serve", "Ray Serve", ("ray[serve]>=2.40,<3",), by_module("ray_serve_server")),
        Peer(
            "fastapi",
            "FastAPI by hand",
            ("fastapi>=0.115", "uvicorn>=0.34", "uvloop>=0.21", "httptools>=0.6"),
            by_module("fastapi_server"),
        ),
        Peer("mosec", "mosec", ("mosec>=0.9,<1",), by_module("mosec_server", ready="/metrics"), describes=False),
        Peer("litserve", "LitServe", ("litserve>=0.2.10,<1",), by_module("litserve_server")),
    )
}


def start_ours(work: Work, ports: Ports, folder: Path, layout: str | None) -> Launch:
    """`loki-rl serve` in the project's own environment, with the front ends that the peer has."""
    command = [sys.executable, "-m", "loki_rl", "serve", str(work.pipeline), "--workers", "2"]
    command += ["--http-port", str(ports.http), "--grpc-port", str(ports.grpc)]
    command += ["--layout", layout] if layout else []
    environment = {"PYTHONPATH": str(PROJECT)}
    return Launch("loki-rl", command, ports.http, "/v2/health/ready", folder / "log", environment, PROJECT)
