"""The linear model: a flow network and integer server counts as a PuLP problem. Owns rows, columns and their scaling;
knows no solver and no order of modes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pulp

from loki_rl.control.configurations import Configuration
from loki_rl.control.latency import with_idle
from loki_rl.control.network import Arc, Network


class Counts:
    """Integer servers per configuration, with totals per variant and task to branch on (allocator notes, section 1)."""

    def __init__(self, problem: Any, configurations: Sequence[Configuration], servers: int, integer: bool = True) -> None:
        self._problem, self._servers = problem, servers
        self._category = pulp.LpInteger if integer else pulp.LpContinuous
        self.columns = [self._column(f"n{k:04d}") for k in range(len(configurations))]
        models: dict[int, dict[int, list[Any]]] = {}
        for column, c in zip(self.columns, configurations, strict=True):
            models.setdefault(c.task, {}).setdefault(c.variant, []).append(column)
        self.sums: list[Any] = []
        self.totals = {task: self._task(task, models[task]) for task in sorted(models)}
        self.row = add_row(problem, [(total, 1) for total in self.totals.values()], "<=", servers)

    def _column(self, name: str) -> Any:
        return self._problem.add_variable(name, 0, self._servers, self._category)

    def _task(self, task: int, variants: dict[int, list[Any]]) -> Any:
        parts = [
            mine[0] if len(mine) == 1 else self._sum(f"v{task:02d}_{variant:02d}", mine)
            for variant, mine in sorted(variants.items())
        ]
        return self._sum(f"t{task:02d}", parts)

    def _sum(self, name: str, parts: list[Any]) -> Any:
        total = self._column(name)
        add_row(self._problem, [*((part, 1) for part in parts), (total, -1)], "==", 0)
        self.sums.append(total)
        return total

    @property
    def all_servers(self) -> list[tuple[Any, float]]:
        return [(total, 1.0) for total in self.totals.values()]


class Flows:
    """The flow of one demand through a network, with `served` as the share that is let in.

    accuracy: terms of the mean accuracy of all requests (unserved ones count 0). Flows are shares of the demand, loads are
    servers: both O(1).
    """

    def __init__(
        self,
        problem: Any,
        network: Network,
        demand_rps: float,
        name: str = "x",
        served: tuple[float, float | None] = (1.0, 1.0),
    ) -> None:
        self._network, self._demand_rps, self._reserving = network, demand_rps, True
        self.served = problem.add_variable(f"{name}_served", *served)
        self.columns = [problem.add_variable(f"{name}{i:05d}", 0) for i in range(len(network.arcs))]
        self.accuracy = [(column, arc.accuracy) for column, arc in self._arcs() if arc.accuracy]
        self._carried: list[list[tuple[Any, Arc]]] = [[] for _ in network.configurations]
        for column, arc in self._arcs():
            if arc.configuration >= 0 and arc.load > 0:
                self._carried[arc.configuration].append((column, arc))
        self._rows: list[tuple[Any, int]] = []
        self._balance(problem)

    def _arcs(self) -> Iterator[tuple[Any, Arc]]:
        return zip(self.columns, self._network.arcs, strict=True)

    def _balance(self, problem: Any) -> None:
        states = self._network.states
        balance: list[list[tuple[Any, float]]] = [[] for _ in states]
        for column, arc in self._arcs():
            balance[arc.state].append((column, 1.0))
            for state, gain in arc.into:
                balance[state].append((column, -gain))
        for node, terms in zip(states, balance, strict=True):
            supply = [(self.served, -node.supply)] if node.supply else []
            add_row(problem, terms + supply, "==", 0)

    def fit(self, problem: Any, counts: Sequence[Any]) -> None:
        """Bind each configuration's load to its column of servers."""
        for k, (carried, count) in enumerate(zip(self._carried, counts, strict=True)):
            if carried:
                terms = [(column, self._servers(arc)) for column, arc in carried]
                self._rows.append((add_row(problem, [*terms, (count, -1.0)], "<=", 0), k))

    def rescale(self, demand_rps: float, reserving: bool = True) -> None:
        """The same flows for another demand: changes the coefficients of what `fit` bound."""
        self._demand_rps, self._reserving = demand_rps, reserving
        for row, k in self._rows:
            for column, arc in self._carried[k]:
                row.expr[column] = self._servers(arc)
            row.modified = True

    def _servers(self, arc: Arc) -> float:
        """Servers that the whole demand would take here: busy ones and, if `reserving`, those that must stay idle."""
        busy = arc.load * self._demand_rps / self._network.configurations[arc.configuration].rate
        return with_idle(busy, arc.reserve) if self._reserving else busy


def add_row(problem: Any, terms: list[tuple[Any, float]], sense: str, rhs: float) -> Any:
    """terms <=, >= or == rhs; returns the row."""
    senses = {"<=": pulp.LpConstraintLE, ">=": pulp.LpConstraintGE, "==": pulp.LpConstraintEQ}
    row = pulp.LpConstraint(pulp.LpAffineExpression(terms), sense=senses[sense], rhs=rhs)
    problem.addConstraint(row)
    return row


def set_objective(problem: Any, terms: list[tuple[Any, float]]) -> None:
    problem.setObjective(pulp.LpAffineExpression(terms))


def new_problem(maximise: bool) -> Any:
    return pulp.LpProblem("plan", pulp.LpMaximize if maximise else pulp.LpMinimize)
