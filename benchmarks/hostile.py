"""Innocent requests beside hostile ones: every input of the test's corpus, 200 slow connections and gzip bombs three at a
time, all over HTTP and at one front of *traffic* on 20 emulated servers. How many of the innocent are answered in time, and
how much memory does the front need, at most and afterwards?

The same requests are sent first without anybody beside them: what is late then, the machine is to blame for. Senders and
attackers have processes of their own.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import os
import selectors
import socket
import threading
import time
from collections import Counter
from contextlib import suppress
from multiprocessing.connection import Connection

from msgspec import Struct

from benchmarks.faults import planes
from benchmarks.faults.checks import Check, show
from benchmarks.host import busy_s, load_average, own_s, rss_mb
from loki_rl.serving.gateway.client import Client
from loki_rl.serving.load.http_sender import HttpSender
from loki_rl.serving.load.open_loop import OpenLoop, lag_ms
from tests.serving.edge.hostile import BOMBS, CORPUS, INFER, Hostile, head, send

RPS = 20.0
SLOW, ALONE_S = 200, 20.0
# All three bombs at once, so often in a run.
VOLLEYS = 3
LATE_SHARE = 0.001
# Memory that a front may keep above what it had, once it has had time to give it back.
KEPT_MB, BACK_S = 80.0, 15.0
LOOK_S = 0.2
WORKER_PROCESSES = 2
TARGET = f"/v2/models/{planes.PIPELINE.name}/infer"


class Told(Struct):
    """What the innocent client saw. outcomes: by name."""

    sent: int
    late: int
    outcomes: dict[str, int]
    slowest_ms: float
    lag_ms: float


def innocent(url: str, seconds: float, pipe: Connection) -> None:
    slo_s = planes.PIPELINE.slo_s
    with OpenLoop([HttpSender(url, planes.PIPELINE.name, None, slo_s)], RPS) as loop:
        time.sleep(seconds)
        records = loop.stop()
    pipe.send(
        Told(
            sent=len(records),
            late=sum(not record.ok(slo_s) for record in records),
            outcomes=dict(Counter(record.outcome.name.lower() for record in records)),
            slowest_ms=1000 * max(record.ended - record.due for record in records),
            lag_ms=lag_ms(records),
        )
    )


def retargeted(hostile: Hostile) -> Hostile:
    """At the model that is served here; its name is as long."""
    at, here = INFER.encode(), TARGET.encode()
    return hostile._replace(parts=lambda: (part.replace(at, here) for part in hostile.parts()))


def attack(port: int, seconds: float, pipe: Connection) -> None:
    """All of the corpus, evenly over the time, and volleys of bombs; tells how often which status was heard."""
    os.nice(5)  # the machine is shared with the front, which it would not be elsewhere
    for bomb in BOMBS:
        list(bomb.parts())  # made before time counts
    pipe.send(None)
    pipe.recv()
    heard: Counter[int] = Counter()
    slow = threading.Thread(target=linger, args=(port, seconds), daemon=True)
    slow.start()
    due: list[tuple[float, tuple[Hostile, ...]]] = [
        (seconds * place / len(CORPUS), (hostile,)) for place, hostile in enumerate(CORPUS)
    ]
    due += [(seconds * (volley + 0.5) / VOLLEYS, BOMBS) for volley in range(VOLLEYS)]
    began = time.monotonic()
    for at, volley in sorted(due, key=lambda one: one[0]):
        time.sleep(max(0.0, began + at - time.monotonic()))
        together = [threading.Thread(target=_hear, args=(port, hostile, heard)) for hostile in volley]
        for thread in together:
            thread.start()
        for thread in together:
            thread.join()
    slow.join()
    pipe.send(dict(heard))


def _hear(port: int, hostile: Hostile, heard: Counter[int]) -> None:
    """0: closed without a word; -1: neither answered nor closed."""
    try:
        heard.update(send(port, retargeted(hostile)) or [0])
    except TimeoutError:
        heard[-1] += 1


def linger(port: int, seconds: float) -> None:
    """SLOW connections that say nothing, or a byte a second of a head, or of a body; each that is closed comes again."""
    body = head("Content-Length: 100000", method="POST", target=TARGET)
    starts = (b"", b"GET /v2 HTTP/1.1\r\nX: ", body)
    slow: dict[int, socket.socket] = {}
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for number in range(SLOW):
            with suppress(OSError):
                if number not in slow:
                    slow[number] = socket.create_connection(("127.0.0.1", port), timeout=1)
                    slow[number].sendall(starts[number % 3])
                elif number % 3:
                    slow[number].sendall(b"a")
        _drop_closed(slow)
        time.sleep(1.0)
    for client in slow.values():
        client.close()


def _drop_closed(slow: dict[int, socket.socket]) -> None:
    """One that can be read was told off, or closed."""
    with selectors.DefaultSelector() as selector:
        for number, client in slow.items():
            selector.register(client, selectors.EVENT_READ, number)
        for key, _ in selector.select(0):
            slow.pop(key.data).close()


class Watch:
    """Memory of one process while it runs [MB]."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self.first = self.peak = self.last = rss_mb(pid) or 0.0

    def until(self, end: float) -> None:
        while time.monotonic() < end:
            time.sleep(LOOK_S)
            self.last = rss_mb(self._pid) or 0.0
            self.peak = max(self.peak, self.last)


def measured(url: str, seconds: float, watch: Watch) -> Told:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    sender = context.Process(target=innocent, args=(url, seconds, theirs), daemon=True)
    sender.start()
    while not ours.poll():
        watch.until(time.monotonic() + LOOK_S)
    told: Told = ours.recv()
    sender.join()
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=90.0)
    args = parser.parse_args()
    logging.getLogger("loki_rl").setLevel(logging.ERROR)
    context = multiprocessing.get_context("spawn")
    port = planes.free_port()
    url = f"http://127.0.0.1:{port}"
    with planes.start(planes.spared(), WORKER_PROCESSES, http_port=port) as running:
        watch = Watch(running.pids["http"])
        alone = measured(url, ALONE_S, watch)
        ours, theirs = context.Pipe()
        attacker = context.Process(target=attack, args=(port, args.seconds, theirs), daemon=True)
        attacker.start()
        ours.recv()
        busy, own, began = busy_s(), own_s(running.pids.values()), time.monotonic()
        ours.send(None)
        beside = measured(url, args.seconds, watch)
        foreign = (busy_s() - busy - (own_s(running.pids.values()) - own)) / (time.monotonic() - began)
        heard: dict[int, int] = ours.recv()
        attacker.join()
        watch.until(time.monotonic() + BACK_S)
        restarted = running.restarted
        with Client(running.front) as client:
            turned = client.state().turned
    report(alone, beside, heard, turned, watch, restarted, foreign)


def report(
    alone: Told, beside: Told, heard: dict[int, int], turned: dict[str, int], watch: Watch, restarted: int, foreign: float
) -> None:
    for name, told in (("alone", alone), ("beside", beside)):
        print(
            f"{name:8}{told.sent} requests, {told.late} not ok in time, slowest {told.slowest_ms:.0f} ms, "
            f"send lag p99 {told.lag_ms:.1f} ms; {told.outcomes}"
        )
    print(f"heard by attackers: {dict(sorted(heard.items()))}; turned away: {dict(sorted(turned.items()))}")
    print(f"front: {watch.first:.0f} MB at first, {watch.peak:.0f} MB at most, {watch.last:.0f} MB at the end")
    print(f"processor time of attackers, senders and others {foreign:.2f} cores; {load_average()}")
    served = {status: count for status, count in heard.items() if status != 0 and not 400 <= status < 500}
    show(
        [
            Check("hostile: share of the innocent not ok in time", beside.late / beside.sent, LATE_SHARE, digits=4),
            Check("hostile: inputs answered but with 4xx, or not at all", sum(served.values()), 0, digits=0),
            Check("hostile: processes started again", restarted, 0, digits=0),
            Check("hostile: memory that the front keeps", watch.last - watch.first, KEPT_MB, " MB", 0),
        ]
    )


if __name__ == "__main__":
    main()
