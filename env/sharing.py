"""Jobs that share a host: each slows the others. Owns how far they are; knows neither actors nor what a job is."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar

from loki_rl.core.effects import Effect
from loki_rl.core.messages import Event
from loki_rl.files.calibration_file import Contention

A = TypeVar("A")
# Called at the end of a job, with the time and how long it took [s].
End = Callable[[float, float], None]
# A job that is so near its end has ended [s].
NEAR_S = 1e-9


class Job(NamedTuple, Generic[A]):
    """A job of a server, in order of its end. due: work of the host at which it ends [s]; number: those of the same due end
    in the order in which they began; began [s]."""

    due: float
    number: int
    server: A
    began: float
    end: End


class Sharing(Generic[A]):
    """All jobs run at the same speed, which depends on how many there are. What one of them has worked since a time is what
    any has: the work of the host. So the end of a job is known from its begin, in work, and only the next end is awaited. An
    actor to whoever carries it out, which wakes it for that."""

    def __init__(self, contention: Contention, start: float) -> None:
        self._contention = contention
        self._now, self._work_s = start, 0.0
        self._jobs: list[Job[A]] = []
        self._begun = 0
        self._speed = 1.0

    def begin(self, server: A, end: End, work_s: float, now: float) -> None:
        """A job that would take so long alone [s]."""
        self._pass(now)
        self._begun += 1
        heapq.heappush(self._jobs, Job(self._work_s + work_s, self._begun, server, now, end))
        self._set_speed()

    def leave(self, server: A, now: float) -> None:
        """A server is gone, with all that it ran."""
        self._pass(now)
        self._jobs = [job for job in self._jobs if job.server != server]
        heapq.heapify(self._jobs)
        self._set_speed()

    def handle(self, event: Event, now: float) -> list[Effect]:  # noqa: ARG002  (whatever wakes it)
        """End what is over by now [s]."""
        self._pass(now)
        while self._jobs and self._jobs[0].due <= self._work_s + NEAR_S:
            job = heapq.heappop(self._jobs)
            job.end(now, now - job.began)
        self._set_speed()
        return []

    def wake_at(self) -> float | None:
        """When the next job ends, if nothing else begins before [s]."""
        if not self._jobs:
            return None
        return self._now + max(0.0, self._jobs[0].due - self._work_s) / self._speed

    def validate(self) -> None:
        assert all(job.due > self._work_s - NEAR_S for job in self._jobs), "a job has gone on after its end"

    def _pass(self, now: float) -> None:
        self._work_s += (now - self._now) * self._speed
        self._now = now

    def _set_speed(self) -> None:
        self._speed = self._contention.speed(max(1, len(self._jobs)))
