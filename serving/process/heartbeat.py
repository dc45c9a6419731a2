"""What a plane's nodes and its launcher tell each other all the time. Signs of life: how often they are given, how long each
process may be silent, and who was for longer. And what time it is, where a node's host is another."""

from __future__ import annotations

import time

from msgspec import Struct, field

from loki_rl.core.options import ClusterOptions
from loki_rl.core.servers.servers import Servers
from loki_rl.serving.clock import clock
from loki_rl.serving.plane import LAUNCHER
from loki_rl.serving.transport.mailbox import Mailbox, Received
from loki_rl.serving.transport.wire import ClockRead, ControlWord, ReadClock

# How often a process says that its loop runs, at least [s]. An idle loop turns every driver.REST_S, a little more.
BEAT_S = 0.45
# How long it may say nothing [s]. Measured on two cores with 14 processes that want to run, the longest time between two
# signs was 1.5 s. A worker that stands still holds a batch, so it has less time.
WORKER_SILENT_S = 3.0
SILENT_S = 4.0
# What computes a batch may hold the interpreter to its end; this many times the longest is no batch any more.
BATCHES = 3.0
# How long a process may be silent while other threads of it may hold the interpreter [s]: a model that is loaded, one that
# TensorRT builds an engine of, a policy that is compiled on its first use.
LOAD_PATIENCE_S = 120.0
BUILD_PATIENCE_S = 1800.0
SOLVE_PATIENCE_S = 120.0
# Of the time between two looks no more than this counts [s]. A launcher that stood still itself has not read what the others
# said meanwhile.
COUNTED_S = 0.5
# How often a node asks what time it is before it begins (the first answer makes the connection), and how long it waits for
# each answer.
QUESTIONS, ANSWER_MS = 5, 1000
BURST = 64


class Heartbeats:
    """allowed: process -> how long it may be silent [s]; silent: how long it has been, in time that was watched."""

    def __init__(self) -> None:
        self.allowed: dict[str, float] = {}
        self.silent: dict[str, float] = {}
        self._looked: float | None = None

    def expect(self, name: str, allowed_s: float) -> None:
        """It was started, and should give its first sign within this time."""
        self.allowed[name] = allowed_s
        self.silent[name] = 0.0

    def renew(self, name: str, allowed_s: float) -> None:
        """A sign of it; the next is due within this time. One of a process that nothing is expected of is let go."""
        if name in self.allowed:
            self.expect(name, allowed_s)

    def forget(self, name: str) -> None:
        self.allowed.pop(name, None)
        self.silent.pop(name, None)

    def look(self, now: float) -> list[str]:
        """Who has been silent for too long. now: of a clock that never goes back [s]."""
        passed_s = 0.0 if self._looked is None else min(COUNTED_S, now - self._looked)
        self._looked = now
        for name in self.silent:
            self.silent[name] += passed_s
        return [name for name, silent_s in self.silent.items() if silent_s > self.allowed[name]]


def worker_silent_s(options: ClusterOptions) -> float:
    """How long the process of a worker may be silent [s]. What takes longer than the SLO is never given out."""
    variants = [variant for one in Servers(options).pipelines for task in one.tasks for variant in task.variants]
    times_s = [row.p99 for variant in variants if variant.runnable for row in variant.latency.values()]
    longest_s = max((time_s for time_s in times_s if time_s <= options.pipeline.slo_s), default=0.0)
    return max(WORKER_SILENT_S, BATCHES * longest_s)


class Came(Struct):
    """What came in meanwhile."""

    letters: list[Received] = field(default_factory=list)
    words: list[ControlWord] = field(default_factory=list)


def ask(mailbox: Mailbox, node: str) -> None:
    """For the time; the answer is for `Clock.hear`."""
    mailbox.say(LAUNCHER, ReadClock(node, time.monotonic()))


def agree(mailbox: Mailbox, node: str) -> Came:
    """Wait until this process has the plane's time. Who never gets it is ended by the launcher as one that gives no sign."""
    came, heard = Came(), 0
    while heard < QUESTIONS:
        ask(mailbox, node)
        answered = False
        while not answered and mailbox.inbox.poll(ANSWER_MS):
            letters, words = mailbox.take(BURST)
            came.letters += letters
            for word in words:
                if isinstance(word, ClockRead):
                    clock.hear(word.asked, word.now)
                    heard, answered = heard + 1, True
                else:
                    came.words.append(word)
    return came
