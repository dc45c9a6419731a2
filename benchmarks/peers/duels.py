"""A peer beside our own plane: which contestants meet in which cases, in turns, A B A B. Owns the order and the rows; must
not know how anything is started or measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Literal

from msgspec import Struct

from benchmarks.peers import cases
from benchmarks.peers.cases import Case, Figures
from benchmarks.peers.catalog import Peer
from benchmarks.peers.contestants import FOLDER, OURS, Contestant, Entry, started
from benchmarks.peers.environment import PeerError
from benchmarks.peers.work import Work, null_chain, reading
from loki_rl.files.config import load_pipeline
from loki_rl.serving.load.sender import ReplayError
from loki_rl.serving.profiling.workload import entry_payloads

WorkLoad = Literal["null", "reading", "overload", "crowd"]
PICTURES = 24
SAME = f"{OURS}, same models"


class Row(Struct):
    """One case of one contestant in one round. error: why there are no figures."""

    duel: str
    case: str
    contestant: str
    round: int
    figures: Figures = {}
    error: str = ""


class Plan(Struct):
    """What to run. seconds: of one case. layout: of our plane's processes, as `serve` takes it."""

    loads: tuple[WorkLoad, ...]
    rounds: int
    seconds: float
    layout: str | None


def duel(peer: Peer, plan: Plan, tell: Callable[[Row], None]) -> list[Row]:
    """All rows of one peer. Raises PeerError if a contestant cannot be started."""
    rows = _null(peer, plan, tell) if "null" in plan.loads else []
    if {"reading", "overload", "crowd"} & set(plan.loads):
        rows += _reading(peer, plan, tell)
    return rows


def _null(peer: Peer, plan: Plan, tell: Callable[[Row], None]) -> list[Row]:
    work = null_chain(FOLDER / "work" / "null")
    entries = [Entry(peer.name, work, peer), Entry(OURS, work, layout=plan.layout)]
    chosen = [cases.idle(plan.seconds), *cases.null_cases(plan.seconds, peer.grpc, peer.describes)]
    with started(entries, ()) as contestants:
        return _rounds("null", contestants, chosen, plan.rounds, tell)


def _reading(peer: Peer, plan: Plan, tell: Callable[[Row], None]) -> list[Row]:
    """With the best models on both sides, and ours with the freedom to choose; then the peer with the fastest ones at the
    same demand, as it could have been given those instead."""
    file = load_pipeline("reading")
    pictures = entry_payloads(file, PICTURES, 0, "cpu")
    best, fastest = (reading(FOLDER / "work", name) for name in ("best", "fastest"))
    free = Entry(OURS, _all_models(best, file.path), layout=plan.layout)
    sides = [Entry(f"{peer.name}, best", best, peer), Entry(SAME, best, layout=plan.layout), free]
    with started(sides, pictures) as contestants:
        rows = _rounds("reading", contestants, [cases.closed(plan.seconds)], plan.rounds, tell)
        capacity = _capacity(rows, contestants[0].name)
        rows += _rounds("reading", contestants, _demands(plan, capacity), plan.rounds, tell)
    sides = [Entry(f"{peer.name}, fastest", fastest, peer), free]
    with started(sides, pictures) as contestants:
        closed = _rounds("reading, fastest", contestants, [cases.closed(plan.seconds)], plan.rounds, tell)
        demands = _demands(plan, capacity)
        if "overload" in plan.loads:
            own = cases.OVERLOAD * _capacity(closed, contestants[0].name)
            demands.append(cases.offered("1.5 x its own capacity", own, plan.seconds, seed=2))
        return rows + closed + _rounds("reading, fastest", contestants, demands, plan.rounds, tell)


def _demands(plan: Plan, capacity_rps: float) -> list[Case]:
    """By what the peer can do with its best models."""
    found = [
        ("reading", cases.offered("at capacity", capacity_rps, plan.seconds, seed=0)),
        ("overload", cases.offered("1.5 x capacity", cases.OVERLOAD * capacity_rps, plan.seconds, seed=1)),
        ("crowd", cases.crowd(capacity_rps, plan.seconds, seed=3)),
    ]
    return [case for load, case in found if load in plan.loads]


def _all_models(work: Work, pipeline: Path) -> Work:
    return Work(work.kind, "all", pipeline, work.stages, work.replicas, work.slo_s, work.accuracy)


def _capacity(rows: Sequence[Row], name: str) -> float:
    found = [row.figures["rps"] for row in rows if row.contestant == name and row.figures]
    if not found or not median(found):
        raise PeerError(f"'{name}' served nothing with some requests in flight, so it has no capacity to be overloaded by")
    return median(found)


def _rounds(
    name: str, contestants: Sequence[Contestant], chosen: Sequence[Case], rounds: int, tell: Callable[[Row], None]
) -> list[Row]:
    """In each round every case of every contestant, in turn."""
    rows: list[Row] = []
    for number in range(rounds):
        for case in chosen:
            for contestant in contestants:
                row = Row(name, case.name, contestant.name, number)
                try:
                    row.figures = case.measure(contestant)
                except (PeerError, ReplayError) as error:
                    row.error = str(error)
                rows.append(row)
                tell(row)
    return rows
