"""Whoever has no key, so many times: plaintext peers, keys that nobody allowed, another server's key, forged frames and
recorded sessions, handshake and all, at the native port; wrong API keys over HTTP. What do they get, and what do they cost?
A client with a key is served beside them, and asks for as many requests as the plane's ledger then has. With --nodes at the
ports that nodes of a plane on Ray have for other hosts (a cluster of this machine): who gets in is heard by a node.
"""

from __future__ import annotations

import argparse
import http.client
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import zmq
from msgspec import Struct

from benchmarks.faults import planes
from benchmarks.host import load_average, process_s, rss_mb
from loki_rl.core.options import ClusterOptions
from loki_rl.serving.gateway.client import Client
from loki_rl.serving.plane import PlaneFile
from loki_rl.serving.process.launch import LocalPlane
from loki_rl.serving.process.ray_launcher import RayLauncher
from loki_rl.serving.security.api_keys import add_key
from loki_rl.serving.security.guards import Guards
from loki_rl.serving.security.key_folder import ClientKeys, allow, make_client, make_server
from loki_rl.serving.transport.addresses import native_server
from loki_rl.serving.transport.curve import KeyPair, make_key_pair, secure_client
from loki_rl.serving.transport.monitor import Monitor
from loki_rl.serving.transport.protocol import Infer, encode
from tests.serving.security.relay import Relay

PAUSE_S = 0.05
# Longest time in which a stranger should have been turned away.
TURNED_AWAY_MS = 20_000
REQUEST = bytes(encode(Infer(1, planes.PIPELINE.name, 0.0, 0.0, 0)))
GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x01" + b"NULL".ljust(20, b"\0") + bytes(32)
READY = b"\x04\x1c\x05READY\x0bSocket-Type\x00\x00\x00\x06DEALER"


class Door(Struct, frozen=True):
    """Where strangers knock. pair: of one who is let in; server: public key of whoever listens; session: all that one with
    keys has said there once; kind: of socket."""

    address: str
    pair: KeyPair
    server: str
    session: bytes
    kind: int = zmq.DEALER


class Strangers:
    """Each method is one try; what it hears that is an answer is kept in `heard`."""

    def __init__(self, door: Door) -> None:
        self._door = door
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.heard: list[object] = []
        self.kinds = (self.plain, self.unknown, self.other_server, self.forged, self.replayed)

    def plain(self) -> None:
        self._peer(None)

    def unknown(self) -> None:
        self._peer(lambda peer: secure_client(peer, make_key_pair(), self._door.server))

    def other_server(self) -> None:
        self._peer(lambda peer: secure_client(peer, self._door.pair, make_key_pair().public))

    def forged(self) -> None:
        self._say(GREETING + READY + bytes((0, len(REQUEST))) + REQUEST)

    def replayed(self) -> None:
        self._say(self._door.session)

    def _peer(self, secure: Callable[[zmq.Socket[bytes]], None] | None) -> None:
        with self._context.socket(self._door.kind) as peer:
            peer.linger = 0
            peer.setsockopt(zmq.RECONNECT_IVL, -1)
            if secure is not None:
                secure(peer)
            monitor = Monitor(self._context, peer, zmq.EVENT_DISCONNECTED | zmq.EVENT_HANDSHAKE_FAILED_AUTH)
            peer.connect(self._door.address)
            with suppress(zmq.Again):  # it was turned away by then
                peer.send(REQUEST, zmq.NOBLOCK)
            if not monitor.handle.poll(TURNED_AWAY_MS) or (self._door.kind == zmq.DEALER and peer.poll(0)):
                self.heard.append("it was not turned away")
            monitor.close()

    def _say(self, said: bytes) -> None:
        """The other end may greet, and say what is wrong; an answer would be longer."""
        with suppress(ConnectionError), socket.create_connection(native_server(self._door.address), timeout=60) as peer:
            peer.sendall(said)
            with suppress(OSError):  # it was turned away by then
                peer.shutdown(socket.SHUT_WR)
            heard = b""
            while part := peer.recv(1 << 16):
                heard += part
            if b"MESSAGE" in heard:
                self.heard.append(heard)

    def close(self) -> None:
        self._context.destroy(linger=0)


def wrong_api_key(plane: LocalPlane, heard: list[object]) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", plane.http_port or 0, timeout=60)
    path, wrong = f"/v2/models/{planes.PIPELINE.name}/infer", {"Authorization": f"Bearer {'x' * 43}"}
    connection.request("POST", path, b"{}", wrong)
    status = connection.getresponse().status
    connection.close()
    if status != 401:
        heard.append(status)


def record(plane: LocalPlane, folder: Path) -> bytes:
    """What a client with a key says in a session of one request."""
    relay = Relay(native_server(plane.native)[1])
    with Client(f"tcp://127.0.0.1:{relay.port}", keys=folder) as client:
        client.infer()
    relay.close()
    return relay.said[0]


def innocent(plane: LocalPlane, folder: Path, stop: threading.Event, outcomes: Counter[str]) -> None:
    with Client(plane.native, keys=folder) as client:
        while not stop.wait(PAUSE_S):
            outcomes[client.infer().outcome] += 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tries", type=int, default=10_000, help="of each kind, at each port")
    parser.add_argument("--nodes", action="store_true", help="at the ports of nodes on a Ray cluster")
    chosen = parser.parse_args()
    (at_nodes if chosen.nodes else at_front_ends)(chosen.tries)


def at_front_ends(tries: int) -> None:
    with TemporaryDirectory() as name:
        folder = Path(name)
        allow(folder / "plane", "alice", make_client(folder / "alice", make_server(folder / "plane")))
        add_key(folder / "api", "alice")
        guards = Guards(api_key_file=str(folder / "api"), native_keys=str(folder / "plane"))
        options = ClusterOptions(planes.PIPELINE, planes.SERVERS)
        with LocalPlane(options, native="tcp://127.0.0.1:0", http_port=0, guards=guards) as plane:
            play(plane, folder / "alice", tries)


def play(plane: LocalPlane, folder: Path, tries: int) -> None:
    keys = ClientKeys(folder)
    strangers = Strangers(Door(plane.native, keys.pair, keys.server, record(plane, folder)))
    outcomes, stop = Counter({"ok": 1}), threading.Event()
    thread = threading.Thread(target=innocent, args=(plane, folder, stop, outcomes))
    thread.start()
    pids = {name: plane.pids[name] for name in ("native", "http", "gateway")}
    for kind in (*strangers.kinds, partial(wrong_api_key, plane, strangers.heard)):
        began, before = time.monotonic(), {name: process_s(pid) for name, pid in pids.items()}
        for _ in range(tries):
            kind()
        spent = ", ".join(f"{name} {1e3 * (process_s(pid) - before[name]) / tries:.2f}" for name, pid in pids.items())
        name = getattr(kind, "__name__", wrong_api_key.__name__)
        print(f"{name:14} {tries} tries in {time.monotonic() - began:.0f} s; CPU of each [ms]: {spent}")
    stop.set()
    thread.join()
    with Client(plane.front) as client:
        counted = client.ledger().tally.arrivals
    memory = ", ".join(f"{name} {rss_mb(pid) or 0:.0f}" for name, pid in pids.items())
    print(f"heard by strangers: {len(strangers.heard)} answers; memory [MB]: {memory}; {load_average()}")
    print(f"innocent requests: {dict(outcomes)}, in the ledger {counted}: strangers cost {counted - outcomes.total()}")
    strangers.close()


def at_nodes(tries: int) -> None:
    """What gets in is no message of the plane's, so the node counts it; so it does what is recorded, once."""
    import ray
    from ray.cluster_utils import Cluster

    cluster = Cluster()
    for number in (2, 3):
        cluster.add_node(node_ip_address=f"127.0.0.{number}", num_cpus=2, include_dashboard=False)
    options = ClusterOptions(planes.PIPELINE, planes.SERVERS)
    with LocalPlane(options, launcher=RayLauncher(options, cluster.address)) as plane, Client(plane.front) as client:
        described = PlaneFile.read(Path(plane.front.removeprefix("ipc://")).parent)
        assert described.keys is not None
        for node in described.nodes:
            address = described.outside(node)
            strangers = Strangers(
                Door(address, described.keys, described.keys.public, overheard(address, described.keys), zmq.PUSH)
            )
            for kind in strangers.kinds:
                began = time.monotonic()
                for _ in range(tries):
                    kind()
                print(f"{node.name:12}{kind.__name__:14} {tries} tries in {time.monotonic() - began:.0f} s")
            print(f"{node.name:12}{len(strangers.heard)} not turned away; then a request is {client.infer().outcome}")
            strangers.close()
    print(f"let in beside the recorded: { {name: bye.malformed - 1 for name, bye in plane.byes.items()} }; {load_average()}")
    ray.shutdown()
    cluster.shutdown()


def overheard(address: str, keys: KeyPair) -> bytes:
    """What one with the keys says to a node that is no message."""
    host, port = native_server(address)
    relay = Relay(port, host)
    with zmq.Context() as context, context.socket(zmq.PUSH) as peer:
        secure_client(peer, keys, keys.public)
        peer.connect(f"tcp://127.0.0.1:{relay.port}")
        peer.send(b"x")
    relay.close()
    return relay.said[0]


if __name__ == "__main__":
    main()
