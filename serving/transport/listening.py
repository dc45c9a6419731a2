"""Bound sockets: of front ends, and of nodes that somebody took the file away from."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import zmq

IPC = "ipc://"


def listen(host: str, port: int, shared: bool = False) -> socket.socket:
    """A bound socket; port 0 takes a free one. shared: other processes may bind the same port the same way, and the kernel
    deals connections out among those that listen. Raises OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if shared:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        bound.bind((host, port))
    except OSError:
        bound.close()
        raise
    return bound


def hold(host: str, port: int) -> socket.socket:
    """Keep a port for processes of ours, which `listen` there with shared=True; port 0 takes a free one. Nobody is listened
    to here. Raises OSError where somebody has it: to share it would join a stranger's server instead of failing."""
    bound = listen(host, port)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    return bound


def free_port(host: str) -> int:
    """One that nobody has in this moment. Raises OSError."""
    with listen(host, 0) as probe:
        port: int = probe.getsockname()[1]
        return port


def bind_again(bound: zmq.Socket[bytes], endpoint: str) -> None:
    """Where the file of an endpoint was removed, connections live on, but nobody new can come: let them. Not in a folder of
    somebody else. Raises ZMQError."""
    file = Path(endpoint.removeprefix(IPC))
    if endpoint.startswith(IPC) and not file.exists() and file.parent.is_dir() and file.parent.stat().st_uid == os.getuid():
        bound.bind(endpoint)
