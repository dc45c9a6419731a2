"""What CURVE costs: round trips of a message and its echo over ipc, plain tcp and tcp with CURVE (loopback), one at a time.
Time, and processor time of both ends together, all of whose sockets are in this process.
"""

from __future__ import annotations

import argparse
import statistics
import threading
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import zmq
from msgspec import Struct

from benchmarks.host import load_average
from loki_rl.serving.transport.curve import Authenticator, make_key_pair, secure_client, secure_server

SIZES = (200, 1 << 10, 150_000, 600_000)
WARM = 50
KEYS = make_key_pair()


class Cost(Struct):
    p50_us: float
    p99_us: float
    cpu_us: float


def echo(server: zmq.Socket[bytes], count: int) -> None:
    for _ in range(count):
        server.send_multipart(server.recv_multipart(copy=False), copy=False)


def cost(endpoint: str, size: int, trips: int, keyed: bool) -> Cost:
    """Of a round trip. Server and client have a context of their own each, as on two hosts."""
    with zmq.Context() as there, zmq.Context() as here:
        authenticator = Authenticator(there, lambda public: public == KEYS.public) if keyed else None
        with there.socket(zmq.ROUTER) as server, here.socket(zmq.DEALER) as client:
            if keyed:
                secure_server(server, KEYS)
                secure_client(client, KEYS, KEYS.public)
            server.bind(endpoint)
            client.connect(server.getsockopt_string(zmq.LAST_ENDPOINT))
            found = measured(server, client, bytes(size), trips)
        if authenticator is not None:
            authenticator.close()
    return found


def measured(server: zmq.Socket[bytes], client: zmq.Socket[bytes], payload: bytes, trips: int) -> Cost:
    thread = threading.Thread(target=echo, args=(server, WARM + trips))
    thread.start()
    times: list[float] = []
    cpu = 0.0
    for number in range(WARM + trips):
        if number == WARM:
            cpu = time.process_time()
        began = time.perf_counter()
        client.send(payload, copy=False)
        client.recv(copy=False)
        times.append(time.perf_counter() - began)
    spent = time.process_time() - cpu
    thread.join()
    cuts = statistics.quantiles(times[WARM:], n=100)
    return Cost(1e6 * cuts[49], 1e6 * cuts[98], 1e6 * spent / trips)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trips", type=int, default=2000)
    trips = parser.parse_args().trips
    print(f"{trips} round trips each; {load_average()}")
    print(f"{'bytes':>8} {'way':>9} {'p50 [us]':>9} {'p99 [us]':>9} {'CPU [us]':>9}")
    with TemporaryDirectory() as folder:
        ipc, tcp = f"ipc://{Path(folder)}/echo", "tcp://127.0.0.1:*"
        ways = (("ipc", ipc, False), ("tcp", tcp, False), ("tcp CURVE", tcp, True))
        for size in SIZES:
            for name, endpoint, keyed in ways:
                found = cost(endpoint, size, trips, keyed)
                print(f"{size:8} {name:>9} {found.p50_us:9.0f} {found.p99_us:9.0f} {found.cpu_us:9.0f}")


if __name__ == "__main__":
    main()
