"""The linear model: a flow network and integer server counts as a PuLP problem. Owns rows, columns and their scaling;
knows no solver and no order of modes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pulp

from loki_rl.control.configurations import Configuration
from loki_rl.control.latency import with_idle
from loki_rl.control.network import Network


class Counts:
    """Integer servers per configuration, with a total per task as branching handle (allocator notes, section 1)."""

    def __init__(self, problem: Any, configurations: Sequence[Configuration], servers: int, integer: bool = True) -> None:
        category = pulp.LpInteger if integer else pulp.LpContinuous
        self.columns = [problem.add_variable(f"n{k:04d}", 0, servers, category) for k in range(len(configurations))]
        self.totals: dict[int, Any] = {}
        for task in sorted({c.task for c in configurations}):
            total = problem.add_variable(f"t{task:02d}", 0, servers, category)
            mine = [(column, 1) for column, c in zip(self.columns, configurations, strict=True) if c.task == task]
            add_row(problem, [*mine, (total, -1)], "==", 0)
            self.totals[task] = total
        add_row(problem, [(total, 1) for total in self.totals.values()], "<=", servers)

    @property
    def all_servers(self) -> list[tuple[Any, float]]:
        return [(total, 1.0) for total in self.totals.values()]


class Flows:
    """The flow of one demand through a network, with `served` as the share that is let in.

    accuracy: terms of the mean accuracy of all requests (unserved ones count 0). loads: per configuration, the terms of
    the servers that its flow needs, busy ones and, if `reserving`, those that must stay idle beside them. Flows are shares
    of the demand, loads are servers: both O(1).
    """

    def __init__(
        self,
        problem: Any,
        network: Network,
        demand_rps: float,
        name: str = "x",
        served: tuple[float, float | None] = (1.0, 1.0),
        reserving: bool = True,
    ) -> None:
        self.served = problem.add_variable(f"{name}_served", *served)
        self.columns = [problem.add_variable(f"{name}{i:05d}", 0) for i in range(len(network.arcs))]
        self.accuracy: list[tuple[Any, float]] = []
        self.loads: list[list[tuple[Any, float]]] = [[] for _ in network.configurations]
        balance: list[list[tuple[Any, float]]] = [[] for _ in network.states]
        for column, arc in zip(self.columns, network.arcs, strict=True):
            balance[arc.state].append((column, 1.0))
            for state, gain in arc.into:
                balance[state].append((column, -gain))
            if arc.configuration >= 0 and arc.load > 0:
                busy = arc.load * demand_rps / network.configurations[arc.configuration].rate
                servers = with_idle(busy, arc.reserve) if reserving else busy
                self.loads[arc.configuration].append((column, servers))
            if arc.accuracy:
                self.accuracy.append((column, arc.accuracy))
        for node, terms in zip(network.states, balance, strict=True):
            supply = [(self.served, -node.supply)] if node.supply else []
            add_row(problem, terms + supply, "==", 0)

    def fit(self, problem: Any, counts: list[Any] | list[int]) -> None:
        """Bind each configuration's load to its servers, columns or numbers."""
        for terms, count in zip(self.loads, counts, strict=True):
            if terms and isinstance(count, int):
                add_row(problem, terms, "<=", count)
            elif terms:
                add_row(problem, [*terms, (count, -1.0)], "<=", 0)


def add_row(problem: Any, terms: list[tuple[Any, float]], sense: str, rhs: float) -> None:
    """terms <=, >= or == rhs."""
    senses = {"<=": pulp.LpConstraintLE, ">=": pulp.LpConstraintGE, "==": pulp.LpConstraintEQ}
    problem.addConstraint(pulp.LpConstraint(pulp.LpAffineExpression(terms), sense=senses[sense], rhs=rhs))


def set_objective(problem: Any, terms: list[tuple[Any, float]]) -> None:
    problem.setObjective(pulp.LpAffineExpression(terms))


def new_problem(maximise: bool) -> Any:
    return pulp.LpProblem("plan", pulp.LpMaximize if maximise else pulp.LpMinimize)
