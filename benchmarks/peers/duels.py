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
from loki_rl.serving.engines.adapter import Array
from loki_rl.serving.load.sender import ReplayError
from loki_rl.serving.profiling.workload import entry_payloads

WorkLoad = Literal["null", "reading", "overload", "crowd"]
PICTURES = 24


class Row(Struct):
    """One case of one contestant in one round. error: why there are no figures."""

    work: str
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


class Bout(Struct):
    """What all rounds of a work load share. pictures: what is read."""

    name: str
    pictures: Sequence[Array]
    rounds: int
    tell: Callable[[Row], None]


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
    return _rounds(Bout("null", (), plan.rounds, tell), entries, chosen)


def _reading(peer: Peer, plan: Plan, tell: Callable[[Row], None]) -> list[Row]:
    """With the best models on both sides, and ours with the freedom to choose; then the peer with the fastest ones at the
    same demand, as it could have been given those instead. Capacities are measured first, since demand depends on them."""
    file = load_pipeline("reading")
    bout = Bout("reading", entry_payloads(file, PICTURES, 0, "cpu"), plan.rounds, tell)
    best, fastest = (reading(FOLDER / "work", name) for name in ("best", "fastest"))
    free = Entry(OURS, _all_models(best, file.path.absolute()), layout=plan.layout)
    same = Entry(f"{OURS}, same models", best, layout=plan.layout)
    theirs, their_fastest = Entry(f"{peer.name}, best", best, peer), Entry(f"{peer.name}, fastest", fastest, peer)

    rows = _rounds(bout, [theirs, their_fastest, same], [cases.closed(plan.seconds)])
    demands = _demands(plan, _capacity(rows, theirs.name))
    rows += _rounds(bout, [theirs, their_fastest, same, free], demands)
    if "overload" in plan.loads:
        most = cases.OVERLOAD * _capacity(rows, their_fastest.name)
        own = [cases.offered("1.5 x capacity of the fastest", most, plan.seconds, seed=2)]
        rows += _rounds(bout, [their_fastest, free], own)
    return rows


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
    """What it did with some requests in flight [1/s]. Raises PeerError if that was nothing."""
    found = [row.figures["rps"] for row in rows if row.contestant == name and row.case == cases.CLOSED and row.figures]
    if not found or not median(found):
        raise PeerError(f"'{name}' served nothing with some requests in flight, so there is nothing to overload it by")
    return median(found)


def _rounds(bout: Bout, entries: Sequence[Entry], chosen: Sequence[Case]) -> list[Row]:
    """In each round every contestant in turn, started anew and alone on the host: some use a core while nobody asks."""
    rows: list[Row] = []
    for number in range(bout.rounds if chosen else 0):
        for entry in entries:
            with started(entry, bout.pictures) as contestant:
                rows += [_row(bout, number, contestant, case) for case in chosen]
    return rows


def _row(bout: Bout, number: int, contestant: Contestant, case: Case) -> Row:
    row = Row(bout.name, case.name, contestant.name, number)
    try:
        row.figures = case.measure(contestant)
    except (PeerError, ReplayError) as error:
        row.error = str(error)
    bout.tell(row)
    return row
