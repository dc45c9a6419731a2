"""A peer beside our own plane: who meets in which cases, in turns, A B A B. Owns the order and the rows; must
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


def null_duel(peer: Peer, plan: Plan, tell: Callable[[Row], None]) -> None:
    """The null chain; `tell` is told each row."""
    work = null_chain(FOLDER / "work" / "null")
    entries = [Entry(peer.name, work, peer), Entry(OURS, work, layout=plan.layout)]
    chosen = [cases.idle(plan.seconds), *cases.null_cases(plan.seconds, peer.grpc, peer.describes)]
    play(Bout("null", (), plan.rounds, tell), entries, chosen)


def reading_duel(peer: Peer, plan: Plan, tell: Callable[[Row], None]) -> None:
    """The best models on both sides, the peer with the fastest ones at the same demand, as it could have been given those
    instead, and ours with the freedom to choose. Capacities are measured first, since demand depends on them. Raises
    PeerError if the peer serves nothing at all."""
    file = load_pipeline("reading")
    bout = Bout("reading", entry_payloads(file, PICTURES, 0, "cpu"), plan.rounds, tell)
    best, fastest = (reading(FOLDER / "work", name) for name in ("best", "fastest"))
    free = Entry(OURS, _all_models(best, file.path.absolute()), layout=plan.layout)
    same = Entry(f"{OURS}, same models", best, layout=plan.layout)
    theirs, their_fastest = Entry(f"{peer.name}, best", best, peer), Entry(f"{peer.name}, fastest", fastest, peer)

    rows = play(bout, [theirs, their_fastest, same], cases.closed(plan.seconds))
    demands = _demands(plan, _capacity(rows, theirs.name))
    play(bout, [theirs, their_fastest, same, free], demands)
    if "overload" in plan.loads:
        most = cases.OVERLOAD * _capacity(rows, their_fastest.name)
        own = [cases.offered("1.5 x capacity of the fastest", most, plan.seconds, seed=2)]
        play(bout, [their_fastest, free], own)


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
    """The most that it served in time with some requests in flight [1/s]. Raises PeerError if that was nothing."""
    found = [
        median([row.figures["rps"] for row in rows if (row.contestant, row.case) == (name, case) and row.figures] or [0.0])
        for case in cases.CLOSED
    ]
    if not max(found):
        raise PeerError(f"'{name}' serves nothing in time with some requests in flight: there is nothing to overload it by")
    return max(found)


def play(bout: Bout, entries: Sequence[Entry], chosen: Sequence[Case]) -> list[Row]:
    """In each round every contestant in turn, started anew and alone on the host: some use a core while nobody asks."""
    if not chosen:
        return []
    return [row for number in range(bout.rounds) for entry in entries for row in _turn(bout, number, entry, chosen)]


def _turn(bout: Bout, number: int, entry: Entry, chosen: Sequence[Case]) -> list[Row]:
    """All cases of one contestant. One that does not start has rows that say so: hours of others are not lost for it."""
    rows = [Row(bout.name, case.name, entry.name, number) for case in chosen]
    try:
        with started(entry, bout.pictures) as contestant:
            for row, case in zip(rows, chosen, strict=True):
                _fill(row, case, contestant)
                bout.tell(row)
    except (PeerError, ReplayError) as error:
        for row in rows:
            if not row.figures and not row.error:
                row.error = str(error)
                bout.tell(row)
    return rows


def _fill(row: Row, case: Case, contestant: Contestant) -> None:
    try:
        row.figures = case.measure(contestant)
    except (PeerError, ReplayError) as error:
        row.error = str(error)
