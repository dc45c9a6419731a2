"""What a run leaves behind."""

from __future__ import annotations

from msgspec import Struct
from msgspec.structs import asdict

from loki_rl.core.requests.ledger import Summary, Tally
from loki_rl.runs.options import RunOptions


class Head(Struct, kw_only=True):
    """A finished run in short. trace: its short name; summary: its figures; best_accuracy (0..1), servers: what `cost_j` is
    relative to; provenance: of the pipeline's figures; duration_s: of the trace; wall_s: how long the run took; synthetic:
    what about its arrivals was not observed, in words."""

    trace: str
    summary: Summary
    servers: int
    best_accuracy: float
    provenance: str
    duration_s: float
    wall_s: float
    synthetic: str = ""


class RunResult(Head, kw_only=True):
    """All of a run. options: what it was made of; tally: what was counted in every second; a folder does not keep the
    latencies of single requests in it."""

    options: RunOptions
    tally: Tally


def row(done: RunResult) -> dict[str, object]:
    """The JSON of one run: the contract's keys, whose meaning docs/glossary.md gives."""
    head = {"trace": done.trace, "policy": done.options.policy, "driver": done.options.driver, "seed": done.options.seed}
    tail = {"wall_s": done.wall_s, "provenance": done.provenance, "synthetic": done.synthetic}
    return {**head, **asdict(done.summary), **tail}
