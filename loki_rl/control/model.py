"""The linear model: a flow network and integer server counts as a PuLP problem. Owns rows, columns and their scaling;
knows no solver and no order of modes."""

from __future__ import annotations

from typing import Any

import pulp

from loki_rl.control.configurations import Configuration
from loki_rl.control.network import Network


class Counts:
    """Integer servers per configuration, with totals per variant and task to branch on (allocator notes, section 1)."""

    def __init__(self, problem: Any, configurations: list[Configuration], servers: int, integer: bool = True) -> None:
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

    accuracy: terms of the mean accuracy of all requests (unserved ones count 0). loads: per configuration, the terms of
    the servers that its flow keeps busy. Flows are shares of the demand, loads are servers: both O(1).
    """

    def __init__(
        self,
        problem: Any,
        network: Network,
        configurations: list[Configuration],
        demand_rps: float,
        name: str = "x",
        served: tuple[float, float | None] = (1.0, 1.0),
    ) -> None:
        self.served = problem.add_variable(f"{name}_served", *served)
        self.columns = [problem.add_variable(f"{name}{i:05d}", 0) for i in range(len(network.arcs))]
        self.accuracy: list[tuple[Any, float]] = []
        self.loads: list[list[tuple[Any, float]]] = [[] for _ in configurations]
        self.rows: list[tuple[Any, int]] = []
        balance: list[list[tuple[Any, float]]] = [[] for _ in network.states]
        for column, arc in zip(self.columns, network.arcs, strict=True):
            balance[arc.state].append((column, 1.0))
            for state, gain in arc.into:
                balance[state].append((column, -gain))
            if arc.configuration >= 0 and arc.load > 0:
                rate = configurations[arc.configuration].rate
                self.loads[arc.configuration].append((column, arc.load * demand_rps / rate))
            if arc.accuracy:
                self.accuracy.append((column, arc.accuracy))
        for node, terms in zip(network.states, balance, strict=True):
            supply = [(self.served, -node.supply)] if node.supply else []
            add_row(problem, terms + supply, "==", 0)

    def fit(self, problem: Any, counts: list[Any] | list[int]) -> None:
        """Bind each configuration's load to its servers, columns or numbers."""
        for k, (terms, count) in enumerate(zip(self.loads, counts, strict=True)):
            if terms and isinstance(count, int):
                add_row(problem, terms, "<=", count)
            elif terms:
                self.rows.append((add_row(problem, [*terms, (count, -1.0)], "<=", 0), k))

    def rescale(self, factor: float) -> None:
        """The same flows for another demand: what `fit` bound takes `factor` times the servers it took at first."""
        for row, k in self.rows:
            for column, servers in self.loads[k]:
                row.expr[column] = servers * factor
            row.modified = True


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
