"""Who is measured: a server that runs, how it is asked, and what it is sent. Owns starting and asking; must not know the
cases."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
from msgspec import Struct

from benchmarks.peers.catalog import Peer, Ports, start_ours
from benchmarks.peers.closed_loop import closed_loop
from benchmarks.peers.environment import PeerError, environment
from benchmarks.peers.pass_through import WIDTH
from benchmarks.peers.process import Launch, Tree, serving
from benchmarks.peers.servers.oip import TENSORS
from benchmarks.peers.work import Work
from loki_rl.serving.engines.adapter import Array
from loki_rl.serving.load.http_sender import HttpSender
from loki_rl.serving.transport.listening import listen
from loki_rl.serving.transport.protocol import Tensor

FOLDER = Path("build/peers")
OURS = "loki-rl"
# Of the first requests, until every process of a server has been asked; how long the first good answer may take.
WARM_S, PATIENCE_S = 2.0, 30.0


class Contestant(Struct):
    """payloads: what it is sent in turn. takes: its input, where it does not say so itself."""

    name: str
    work: Work
    tree: Tree
    ports: Ports
    payloads: Sequence[Array]
    takes: Tensor | None

    @property
    def ours(self) -> bool:
        return self.name.startswith(OURS)

    def sender(self, timeout_s: float) -> HttpSender:
        url = f"http://127.0.0.1:{self.ports.http}"
        return HttpSender(url, self.work.kind, self.payloads, timeout_s, self.takes)


class Entry(Struct):
    """A contestant that is to be started. peer: None for our own plane. layout: of its processes, as `serve` takes it."""

    name: str
    work: Work
    peer: Peer | None = None
    layout: str | None = None


@contextmanager
def started(entry: Entry, pictures: Sequence[Array]) -> Iterator[Contestant]:
    """It alone, warm. Raises PeerError."""
    ports = free_ports()
    with serving(_launch(entry, ports)) as tree:
        contestant = Contestant(entry.name, entry.work, tree, ports, _payloads(entry, pictures), _takes(entry))
        _warm(contestant)
        yield contestant


def _launch(entry: Entry, ports: Ports) -> Launch:
    folder = (FOLDER / "runs" / entry.name.replace(" ", "-") / entry.work.name).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    if entry.peer is None:
        return start_ours(entry.work, ports, folder, entry.layout)
    python = environment(FOLDER / entry.peer.name, entry.peer.name, entry.peer.requirements)
    return entry.peer.start(python, entry.work, ports, folder)


def _payloads(entry: Entry, pictures: Sequence[Array]) -> Sequence[Array]:
    if entry.work.kind == "null":
        row = np.zeros(WIDTH, np.float32)
        return [row if entry.peer is None else row[np.newaxis]]
    batched = entry.peer is not None and entry.peer.batch_axis
    return [picture[np.newaxis] for picture in pictures] if batched else pictures


def _takes(entry: Entry) -> Tensor | None:
    if entry.peer is None or entry.peer.describes:
        return None
    takes = TENSORS[entry.work.kind][0]
    return Tensor(takes["name"], takes["datatype"], tuple(takes["shape"]))


def _warm(contestant: Contestant) -> None:
    """Raises PeerError if nothing is answered well."""
    limit = time.monotonic() + PATIENCE_S
    while time.monotonic() < limit:
        with closing(contestant.sender(PATIENCE_S)) as sender:
            if closed_loop(sender, contestant.work.replicas, WARM_S, PATIENCE_S).served:
                return
    raise PeerError(f"'{contestant.name}' answered no request well for {PATIENCE_S:g} s")


def free_ports() -> Ports:
    with closing(listen("127.0.0.1", 0)) as http, closing(listen("127.0.0.1", 0)) as grpc:
        return Ports(http.getsockname()[1], grpc.getsockname()[1])
