"""What another policy, SLO or cluster would have made of what a plane was asked: the options of such a run, and what the
plane itself made of it."""

from __future__ import annotations

from collections.abc import Mapping
from math import floor
from pathlib import Path
from typing import Any

import numpy as np
from msgspec.structs import replace

from loki_rl.core.messages import Outcome
from loki_rl.core.plan import Plan
from loki_rl.core.requests.ledger import PlanRecord, Tally, summarise
from loki_rl.decoding import UNREADABLE
from loki_rl.env.simulate import with_load_s
from loki_rl.errors import UserError
from loki_rl.flight.file import FlightError, Head, Tail
from loki_rl.flight.packing import Columns, Part
from loki_rl.flight.rows import Answer, Arrival, Begun, Planning, Usage
from loki_rl.runs.options import RunOptions, read_options
from loki_rl.runs.recording import RECORDING
from loki_rl.runs.result import RunResult
from loki_rl.traces.demand import TraceOptions
from loki_rl.traces.rows import stem

# What the run was asked is all in the recording, in its own time; the file of what demand was like has learnt it since.
OF_THE_TRACE = (*TraceOptions.__struct_fields__, "history")


class WhatIfError(UserError):
    """A recording cannot be played as it was asked; the message says why and what to do."""


def recording_of(path: Path) -> Path:
    """The recording of a run folder, or the file itself."""
    return path / RECORDING if path.is_dir() else path


def what_if(path: Path, typed: Mapping[str, Any]) -> tuple[RunOptions, RunResult]:
    """The options of a run on the recorded requests, which are those of the recorded run but for those typed, and what that
    run made of them. Raises FlightError, WhatIfError or ConfigError."""
    head, tally = _told(path)
    recorded = _options(path, head)
    if "pipeline" not in typed and with_load_s(recorded.file.pipeline, recorded.load_s) != head.cluster.pipeline:
        raise WhatIfError(
            f"pipeline '{recorded.pipeline}' is no longer as it was when {path} was recorded; name it as an argument to "
            "play with what it is now"
        )
    usual = {name: getattr(RunOptions("", ""), name) for name in OF_THE_TRACE}
    alone = {"servers": "pool", "pool": "servers"}
    usual |= {alone[name]: None for name in alone if typed.get(name) is not None}
    options = replace(recorded, **usual | {"driver": "twin"} | dict(typed) | {"trace": str(path)})
    return options, _result(path, recorded, head, tally)


def _options(path: Path, head: Head) -> RunOptions:
    try:
        return read_options(head.run.encode())
    except UNREADABLE as error:
        raise FlightError(f"{path} does not say how its plane was run ({error}); record one with 'loki-rl serve'") from error


def _result(path: Path, recorded: RunOptions, head: Head, tally: Tally) -> RunResult:
    best, servers = head.cluster.pipeline.best_accuracy, head.cluster.servers
    length = max((number for number, second in tally.seconds.items() if second.arrivals), default=0) + 1.0
    options = replace(recorded, policy=f"{recorded.policy} (live)")
    # Of parts of requests a recording tells nothing.
    summary = replace(summarise(tally, best, servers), leaf_violation_ratio=None, task_executions=None)
    return RunResult(
        options=options,
        trace=stem(path),
        summary=summary,
        tally=tally,
        servers=servers,
        best_accuracy=best,
        provenance=recorded.file.provenance,
        duration_s=length,
        wall_s=length,
    )


def _told(path: Path) -> tuple[Head, Tally]:
    tail = Tail(path)
    live = LiveTally()
    try:
        for part in tail.poll():
            live.add(part)
    finally:
        tail.close()
    if tail.head is None:
        raise FlightError(f"{path} is not a recording: it has no head; record one with 'loki-rl serve --record FILE'")
    return tail.head, live.ended()


class LiveTally:
    """Counts a run as its ledger does, of its recording. origin: of its trace time [s], None before it began."""

    def __init__(self) -> None:
        self.origin: float | None = None
        self.tally = Tally()
        self._sampled: set[int] = set()

    def add(self, part: Part) -> None:
        """What came next in the file."""
        columns = part.columns
        if Begun in columns:
            self.origin, self.tally = float(columns[Begun]["origin"][-1]), Tally(plans=self.tally.plans[-1:])
            self._sampled.clear()
        for row in part.rows:
            if isinstance(row, Planning) and row.mode is not None:
                self.tally.plans.append(PlanRecord(row.answered - (self.origin or row.answered), _plan(row)))
        if self.origin is None:
            return
        if Arrival in columns:
            self._arrive(columns[Arrival]["at"] - self.origin)
        if Answer in columns:
            self._answer(columns[Answer], self.origin)
        for second, servers, loads in columns[Usage].tolist() if Usage in columns else ():
            found = self.tally.second(second)
            found.servers, found.loads = servers, loads
            self._sampled.add(second)

    def ended(self) -> Tally:
        """The tally when no more will come. Nobody answered what was open when a gateway's process ended, or the recording
        did; where servers were not counted, as in the second in which a plane stopped, they were those of before."""
        servers = 0
        for number, second in sorted(self.tally.seconds.items()):
            servers = second.servers = second.servers if number in self._sampled else servers
        self.tally.fail_open()
        return self.tally

    def _arrive(self, times: Columns) -> None:
        numbers, counts = np.unique(np.floor(times[times >= 0]), return_counts=True)
        for number, count in zip(numbers.tolist(), counts.tolist(), strict=True):
            second = self.tally.second(int(number))
            second.arrivals += count
            second.open += count

    def _answer(self, answers: Columns, origin: float) -> None:
        """A request counts in the second in which it arrived."""
        # In microseconds, of which both are a whole number.
        asked = np.rint(1e6 * (answers["at"] - answers["latency_s"])) - np.rint(1e6 * origin)
        close = self.tally.close
        for at, outcome, latency_s, accuracy in zip(
            asked.tolist(), *(answers[name].tolist() for name in ("outcome", "latency_s", "accuracy")), strict=True
        ):
            if at >= 0:
                close(floor(at / 1e6), Outcome(outcome), latency_s, accuracy)


def _plan(row: Planning) -> Plan:
    assert row.mode is not None
    return Plan(
        row.mode, row.placements, row.servers, row.accuracy, row.served_fraction, row.demand_rps, row.capacity_rps, {}, {}
    )
