"""A controller and servers that say what a test wants."""

from __future__ import annotations

from typing import Any

from loki_rl.core.controller import Controller
from loki_rl.core.effects import Effect, Send, Solve
from loki_rl.core.messages import (
    Assign,
    Begin,
    Event,
    Planned,
    Report,
    Sample,
)
from loki_rl.core.options import ClusterOptions
from loki_rl.core.pipeline import Latency, Pipeline, Task, Variant
from loki_rl.core.plan import Placement, Plan, Snapshot

FAST = {1: Latency(0.01, 0.02, 0.03)}
PIPELINE = Pipeline(
    name="pair",
    slo_s=0.2,
    tasks=(
        Task("find", (Variant("f0", 0.5, FAST, {"read": 1.0}, load_s=5.0),), entry=1.0),
        Task("read", (Variant("r0", 0.5, FAST, load_s=5.0), Variant("r1", 0.9, FAST, load_s=5.0)), parent="find"),
    ),
    leaf_weights={"read": 1.0},
)
MODELS = {"f0": (0, 0), "r0": (1, 0), "r1": (1, 1), "": (-1, -1)}


def plan(**replicas: int) -> Plan:
    places = [Placement("find" if name == "f0" else "read", name, 1, count) for name, count in replicas.items()]
    return Plan("accuracy", tuple(places), sum(replicas.values()), 0.5, 1.0, 1.0, 1.0, {"find": 0.5, "read": 1.0}, {})


class Cluster:
    """A controller and servers that say what a test wants."""

    def __init__(self, servers: int, **options: Any) -> None:
        self.controller = Controller(ClusterOptions(PIPELINE, servers, **options))
        self.loads = [0] * servers
        self.now = 0.0

    def tell(self, event: Event, now: float | None = None) -> list[Effect]:
        self.now = self.now if now is None else now
        effects = self.controller.handle(event, self.now)
        self.controller.validate()
        return effects

    def report(
        self,
        number: int,
        serves: str = "",
        loads: str = "",
        life: int = 0,
        ends: str = "",
        error: str = "",
        now: float | None = None,
    ) -> list[Effect]:
        started = self.now if now is None else now
        serving, loading, ended = MODELS[serves], MODELS[loads], MODELS[ends]
        return self.tell(Report(number, life, 1, *serving, 1, *loading, started, self.loads[number], *ended, error), now)

    def begins(self, number: int, model: str, now: float | None = None) -> list[Effect]:
        self.loads[number] += 1
        return self.report(number, loads=model, now=now)

    def up(self, first: Plan) -> list[Effect]:
        """Every server reports, the first plan is made."""
        for number in range(len(self.loads)):
            effects = self.report(number)
        assert [type(effect) for effect in effects] == [Solve], "the first plan, when all servers are there"
        return self.tell(Planned(first))

    def serve(self, first: Plan, *names: str) -> None:
        """The first plan is in force, its models warm, trace time begins at 0."""
        self.up(first)
        for number, name in enumerate(names):
            if name:
                self.begins(number, name)
                self.report(number, serves=name)
        assert self.controller.converged
        self.tell(Begin(0.0))


def asked(effects: list[Effect]) -> Snapshot:
    """The question of the one plan that is asked for."""
    found, *more = [effect.snapshot for effect in effects if isinstance(effect, Solve)]
    assert not more
    return found


def orders(effects: list[Effect]) -> dict[int, str]:
    """Server -> variant it is told to serve."""
    names = {model: name for name, model in MODELS.items()}
    return {
        int(effect.to.split(":")[1]): names[effect.message.task, effect.message.variant]
        for effect in effects
        if isinstance(effect, Send) and isinstance(effect.message, Assign)
    }


def snapshots(effects: list[Effect]) -> list[Snapshot]:
    return [effect.snapshot for effect in effects if isinstance(effect, Solve)]


def samples(effects: list[Effect]) -> list[Sample]:
    return [effect.message for effect in effects if isinstance(effect, Send) and isinstance(effect.message, Sample)]
