"""Which faults come when, to whom: drawn from a seed and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Literal, get_args

from msgspec import Struct

from loki_rl.errors import UserError

Kind = Literal["kill", "stop", "hang", "poison", "slow", "corrupt", "missing", "disk", "withhold"]
KINDS: tuple[Kind, ...] = get_args(Kind)
# How long each lasts [s]. What stands still for less than its supervisor's patience goes on by itself; a disk that is full
# would keep later faults from being ordered.
LASTS_S: dict[Kind, tuple[float, float]] = {
    "stop": (0.5, 6.0),
    "slow": (2.0, 6.0),
    "corrupt": (2.0, 8.0),
    "missing": (2.0, 8.0),
    "disk": (0.5, 2.5),
    "withhold": (0.5, 4.0),
}
# A model of so many times its usual time.
SLOWER = 10.0


class TrialError(UserError):
    """The trial cannot be held as asked; the message says why and what to do."""


class Fault(Struct, frozen=True):
    """at_s: since the schedule began. target: a process, a pair of nodes 'A B', or empty where the plane chooses (who runs a
    request). A damaged model is the one that its target serves, which is killed so that it must be loaded; the target of a
    full disk is killed so that something must be written. for_s: how long it lasts [s]."""

    number: int
    at_s: float
    kind: Kind
    target: str = ""
    for_s: float = 0.0


class Targets(Struct, frozen=True):
    """nodes: processes with actors; workers: those of them that have workers; fronts: processes without actors. All in
    an order that does not change."""

    nodes: tuple[str, ...]
    workers: tuple[str, ...]
    fronts: tuple[str, ...]


def schedule(targets: Targets, kinds: Sequence[Kind], count: int, every_s: float, seed: int) -> list[Fault]:
    """Every kind comes once before any comes again."""
    chance = Random(seed)
    faults: list[Fault] = []
    while len(faults) < count:
        for kind in chance.sample(kinds, len(kinds))[: count - len(faults)]:
            faults.append(_fault(chance, targets, kind, len(faults), every_s))
    return faults


def _fault(chance: Random, targets: Targets, kind: Kind, number: int, every_s: float) -> Fault:
    least, most = LASTS_S.get(kind, (0.0, 0.0))
    if kind == "disk":
        most = min(most, 0.8 * every_s)
    # Drawn in the same order for every kind: which kinds there are changes nothing else.
    for_s, worker = round(chance.uniform(least, max(least, most)), 2), chance.choice(targets.workers)
    process, pair = chance.choice((*targets.nodes, *targets.fronts)), chance.sample(targets.nodes, 2)
    whom = {"kill": process, "stop": process, "hang": "", "poison": "", "withhold": " ".join(pair)}
    return Fault(number, number * every_s, kind, whom.get(kind, worker), for_s)
