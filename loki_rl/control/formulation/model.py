"""The linear model: a flow network and integer server counts as a PuLP problem."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pulp

from loki_rl.control.formulation.configurations import Configuration
from loki_rl.control.formulation.latency import with_idle
from loki_rl.control.formulation.network import Arc, Network
from loki_rl.control.solver.simplex import Floats


class Counts:
    """Integer servers per configuration of each part, with totals to branch on (docs/allocator.md, The model): per variant
    and task of each type, per task of all types, per part.

    parts: the configurations of each pipeline. servers, prices: of each type. columns: in the order of the parts. models:
    all servers of a variant, by (part, type, task, variant). holdings: all servers of a type that a part has, by (part,
    type), where there are several parts.
    """

    def __init__(
        self,
        problem: Any,
        parts: Sequence[Sequence[Configuration]],
        servers: Sequence[int],
        prices: Sequence[float],
    ) -> None:
        self._problem, self._servers = problem, servers
        self.configurations = [(part, c) for part, mine in enumerate(parts) for c in mine]
        self.columns = [self._column(f"n{k:04d}", c.pool) for k, (_, c) in enumerate(self.configurations)]
        models: dict[tuple[int, int, int], dict[int, list[Any]]] = {}
        for column, (part, c) in zip(self.columns, self.configurations, strict=True):
            models.setdefault((part, c.pool, c.task), {}).setdefault(c.variant, []).append(column)
        self.models: dict[tuple[int, int, int, int], Any] = {}
        self.totals = {key: self._task(key, models[key]) for key in sorted(models)}
        if len(servers) > 1:
            self._over_types()
        self.holdings = self._over_tasks() if len(parts) > 1 else {}
        for pool, count in enumerate(servers):
            add_row(problem, self.all_of(pool), "<=", count)
        self.price = [(total, prices[pool]) for (_, pool, _), total in self.totals.items()]

    def _column(self, name: str, pool: int) -> Any:
        return self._problem.add_variable(name, 0, self._servers[pool], pulp.LpInteger)

    def _task(self, key: tuple[int, int, int], variants: dict[int, list[Any]]) -> Any:
        part, pool, task = key
        place = f"{part:02d}_{pool:02d}_{task:02d}"
        for variant, mine in sorted(variants.items()):
            total = mine[0] if len(mine) == 1 else self._sum(f"v{place}_{variant:02d}", pool, mine)
            self.models[*key, variant] = total
        return self._sum(f"t{place}", pool, [self.models[*key, variant] for variant in sorted(variants)])

    def _over_types(self) -> None:
        """How many servers a task has at all settles more than how many of one type; their bounds bound it."""
        for part, task in sorted({(part, task) for part, _, task in self.totals}):
            mine = [total for (p, _, t), total in self.totals.items() if (p, t) == (part, task)]
            whole = self._problem.add_variable(f"w{part:02d}_{task:02d}", 0, None, pulp.LpInteger)
            add_row(self._problem, [*((total, 1) for total in mine), (whole, -1)], "==", 0)

    def _over_tasks(self) -> dict[tuple[int, int], Any]:
        places = sorted({(part, pool) for part, pool, _ in self.totals})
        return {
            (part, pool): self._sum(
                f"p{part:02d}_{pool:02d}",
                pool,
                [total for (p, where, _), total in self.totals.items() if (p, where) == (part, pool)],
            )
            for part, pool in places
        }

    def _sum(self, name: str, pool: int, parts: list[Any]) -> Any:
        total = self._column(name, pool)
        add_row(self._problem, [*((part, 1) for part in parts), (total, -1)], "==", 0)
        return total

    def all_of(self, pool: int) -> list[tuple[Any, float]]:
        """Terms of all servers of a type."""
        if self.holdings:
            return [(total, 1.0) for (_, where), total in self.holdings.items() if where == pool]
        return [(total, 1.0) for (_, where, _), total in self.totals.items() if where == pool]


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
        self._network, self._demand_rps = network, demand_rps
        self.served = problem.add_variable(f"{name}_served", *served)
        self.columns = [problem.add_variable(f"{name}{i:05d}", 0) for i in range(len(network.arcs))]
        self.accuracy = [(column, arc.accuracy) for column, arc in self._arcs() if arc.accuracy]
        self._carried: list[list[tuple[Any, Arc]]] = [[] for _ in network.configurations]
        for column, arc in self._arcs():
            if arc.configuration >= 0 and arc.load > 0:
                self._carried[arc.configuration].append((column, arc))
        self._busy, self._reserve = self._per_demand()
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

    def _per_demand(self) -> tuple[Floats, Floats]:
        """Of every carried arc: busy servers per unit of demand, and what must stay idle."""
        carried = [(arc.load / self._network.configurations[k].rate, arc.reserve) for k, arc in self._each()]
        busy, reserve = np.array(carried, dtype=np.float64).reshape(-1, 2).T
        return busy.copy(), reserve.copy()

    def _each(self) -> Iterator[tuple[int, Arc]]:
        return ((k, arc) for k, carried in enumerate(self._carried) for _, arc in carried)

    def fit(self, problem: Any, counts: Sequence[Any], reserving: bool = True) -> None:
        """Bind each configuration's load to its column of servers; reserving: as in `servers`."""
        fit_together(problem, [self], [self.servers(self._demand_rps, reserving)], counts)

    def loads(self, servers: Floats) -> list[list[tuple[Any, float]]]:
        """Of each configuration the terms of its load, with servers per carried arc."""
        each = iter(servers.tolist())
        return [[(column, next(each)) for column, _ in carried] for carried in self._carried]

    def servers(self, demand_rps: float, reserving: bool = True) -> Floats:
        """Servers that a whole demand would take on each carried arc: busy ones and, if `reserving`, those that must stay
        idle."""
        busy = self._busy * demand_rps
        return with_idle(busy, self._reserve) if reserving else busy


def fit_together(problem: Any, flows: Sequence[Flows], needs: Sequence[Floats], counts: Sequence[Any]) -> None:
    """Bind what several flows through one network load each configuration with to its column of servers. needs: of each
    flow, servers per carried arc."""
    loads = [flow.loads(servers) for flow, servers in zip(flows, needs, strict=True)]
    for count, *carried in zip(counts, *loads, strict=True):
        terms = [term for one in carried for term in one]
        if terms:
            add_row(problem, [*terms, (count, -1.0)], "<=", 0)


# Only what PuLP 3 and PuLP 4 both offer in public is used here: their constructors differ.


def expression(terms: Iterable[tuple[Any, float]]) -> Any:
    """The sum of coefficient * variable."""
    total = pulp.lpSum([])
    for variable, value in terms:
        total.addterm(variable, value)
    return total


def add_row(problem: Any, terms: Iterable[tuple[Any, float]], sense: str, rhs: float) -> int:
    """terms <=, >= or == rhs; returns the row's number."""
    compare = {"<=": operator.le, ">=": operator.ge, "==": operator.eq}[sense]
    number = problem.numConstraints()
    problem.addConstraint(compare(expression(terms), rhs))
    return int(number)


def set_objective(problem: Any, terms: Iterable[tuple[Any, float]]) -> None:
    problem.setObjective(expression(terms))


def new_problem(maximise: bool) -> Any:
    return pulp.LpProblem("plan", pulp.LpMaximize if maximise else pulp.LpMinimize)
