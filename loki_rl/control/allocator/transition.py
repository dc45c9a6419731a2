"""The problem of moving a cluster by branch and price: one fleet, the flow while its models load, and one of each slice of
demand after. Knows no weights."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from math import inf, nan
from time import perf_counter

import numpy as np

from loki_rl.control.allocator.implicit_model import keep
from loki_rl.control.allocator.written_transition import Model, Question, WrittenTransition
from loki_rl.control.branch_and_price.pricing import PAYS, Relaxation, Terms
from loki_rl.control.branch_and_price.route_pricing import graph_of, joined, servers_per_flow
from loki_rl.control.branch_and_price.search import BranchAndPrice, Fleets
from loki_rl.control.compiled import njit
from loki_rl.control.formulation.prepared import Prepared
from loki_rl.control.formulation.request import Solver
from loki_rl.control.solver.simplex import OPTIMAL, Floats, Indices
from loki_rl.control.solver.solve import Outcome, Solved

Left = Callable[[], float]


class _Rows:
    """Numbers of the rows of a question, in this order: what is served while models load and of each slice after; what is
    served while models load up to the end of each slice but the last; the floor; one that is not used; pools; then the
    integers to branch on: tasks, places (tasks on one type), models and counts; then of every model what it has while others
    load and what it needs no load for; then of every model (break) or pool (make) what stays of it.

    of, by [count, place]: of the configurations after, then while models load, the rows that a server of each counts in.
    """

    def __init__(self, setting: Prepared, types: int, slices: int) -> None:
        self.configurations = setting.by_variant
        self.models: list[Model] = sorted({(c.task, c.variant, c.pool) for c in self.configurations})
        self.making = setting.pipeline.swap == "make"
        tasks = sorted({c.task for c in self.configurations})
        places = sorted({(c.task, c.pool) for c in self.configurations})
        size = len(self.models)
        stays = types if self.making else size
        sizes = [
            1 + slices, slices - 1, 1, 1, types, len(tasks), len(places), size, len(self.configurations), size, size, stays,
        ]  # fmt: skip
        ends = np.cumsum([0, *sizes])
        self.served, self.likely, self.floor, self.unused, self.pools, *rest = (
            np.arange(begin, end) for begin, end in pairwise(ends)
        )
        self.tasks, self.places, self.of_models, self.counts, self.able, self.there, self.stays = rest
        self.size = int(ends[-1])
        self.pool_of = np.array([c.pool for c in self.configurations])
        self.model_of = np.array([self.models.index((c.task, c.variant, c.pool)) for c in self.configurations])
        task_of = np.array([tasks.index(c.task) for c in self.configurations])
        place_of = np.array([places.index((c.task, c.pool)) for c in self.configurations])
        stay_of = self.stays[self.pool_of if self.making else self.model_of]
        after = [
            self.pools[self.pool_of], self.tasks[task_of], self.places[place_of], self.of_models[self.model_of], self.counts,
            self.there[self.model_of], stay_of,
        ]  # fmt: skip
        none = np.full_like(stay_of, -1)
        loading = [self.able[self.model_of], stay_of, none, none, none, none, none]
        self.of = np.concatenate([np.stack(after, axis=1), np.stack(loading, axis=1)])
        self.by = np.ones(self.of.shape)
        self.by[len(stay_of) :, 1] = -1.0
        self.lines, self.line_of = self._lines(after)
        self.line_model = self.lines[:, 3] - self.of_models[0]
        self.units = np.full((1 + slices, slices), -1)
        self.units[:, 0], self.units[0, 1:] = self.served, self.likely
        self.floors = np.array([self.unused[0], *slices * [self.floor[0]]])
        self.closes = np.ones(self.size, dtype=np.bool_)
        self.closes[self.there] = False
        self.rank = np.zeros(self.size, dtype=np.int64)
        self.rank[self.tasks], self.rank[self.of_models], self.rank[self.counts] = 4, 2, 1
        self.rank[self.places] = 3 if types > 1 else 0
        self.integers = np.flatnonzero(self.rank)

    def _lines(self, after: list[Indices]) -> tuple[Indices, Indices]:
        """Idle servers have a model: coarser ones would need no load."""
        every = np.stack(after, axis=1)
        of_models = np.unique(every[:, [0, 1, 2, 3, 5, 6]], axis=0)
        of_models = of_models[np.argsort(of_models[:, 3], kind="stable")]
        lines = np.full((len(of_models) + len(every), every.shape[1]), -1)
        lines[: len(of_models), :6], lines[len(of_models) :] = of_models, every
        last = np.concatenate([of_models[:, 3], every[:, 4]])
        return lines, np.searchsorted(last, np.arange(self.size + 1))


class Transition:
    """Ask, then read the answer before the next question. Equal questions get equal answers, whatever was asked before.

    While models load any variant may serve. break: a server that loads serves nothing; make: its old model serves until the
    new one is warm. counts: servers per configuration. served: of each slice after the loads, as a share of the demand.
    """

    def __init__(self, setting: Prepared, slices: int) -> None:
        self.setting, self._rows = setting, _Rows(setting, len(setting.by_type), slices)
        self._after, self._loading = graph_of(setting.variant_network), graph_of(setting.merged_network)
        size = len(setting.by_variant)
        self._graph = joined([self._loading, *slices * [self._after]], np.array([size, *slices * [0]]))
        self._ends = np.cumsum([0, len(self._loading.supply), *slices * [len(self._after.supply)]])
        self.counts, self.served = list[int](), list[float]()

    def ask(self, question: Question, time_limit_s: float, gap: float, models: dict[Model, int] | None = None) -> Solved:
        """The fleet of the largest worth less prices; models: of those that have so many servers of each model."""
        began = perf_counter()

        def left_s() -> float:
            return began + time_limit_s - perf_counter()

        size = question.size
        scaled = question.scaled(1 / size)
        asked = _Asked(scaled, self._rows, self._terms(scaled))
        search = BranchAndPrice(*asked.begun(left_s), gap)
        if models is not None:
            search.relaxation.hold(self._rows.of_models)
            wanted = [models.get(model, 0) for model in self._rows.models]
            search.relaxation.lower[self._rows.of_models] = search.relaxation.upper[self._rows.of_models] = wanted
        elif (known := asked.reached(np.array(question.start), left_s)) is not None:
            search.know(*known)
        answer = search.run()
        if answer.outcome == "doubt":
            return self._written(question, left_s(), gap)
        if answer.counts is None or answer.served is None:
            return Solved("unknown", "Time limit", nan, -size * answer.bound, perf_counter() - began)
        self.counts, self.served = [int(count) for count in answer.counts], answer.served[1:].tolist()
        proven: tuple[Outcome, str] = ("optimal", "Optimal") if answer.outcome == "optimal" else ("feasible", "Time limit")
        return Solved(*proven, -size * answer.objective, -size * answer.bound, perf_counter() - began)

    def _written(self, question: Question, time_limit_s: float, gap: float) -> Solved:
        """Where rounding errors leave doubt: the reference."""
        written = WrittenTransition(self.setting)
        solved = written.ask(question, time_limit_s, gap)
        self.counts, self.served = written.counts, written.served
        return solved

    def _terms(self, question: Question) -> Terms:
        rows, after = self._rows, self._after
        chances, slices = np.array(question.chances), len(question.slices)
        needs = question.needs(lambda demand_rps: servers_per_flow(after, demand_rps))
        meanwhile, then, accuracy = question.worth
        prices = _prices(question, rows)
        return Terms(
            graph=self._graph,
            ends=self._ends,
            servers=np.concatenate([servers_per_flow(self._loading, question.loading_rps), *needs]),
            of=rows.of,
            by=rows.by,
            price=np.concatenate([prices[rows.model_of], np.zeros(len(rows.model_of))]),
            units=rows.units,
            floor=rows.floors,
            least=int(rows.unused[0]),
            level=np.array([0.0, *slices * [question.floor]]),
            weight=np.zeros(1 + slices),
            accurate=np.array([0.0, *accuracy * chances]),
            served=np.array([meanwhile * chances[-1], *then * chances]),
            most=np.array([1.0, *question.slices]),
            missing=np.arange(1 + slices),
            lines=rows.lines,
            line_price=prices[rows.line_model],
            line_of=rows.line_of,
            closes=rows.closes,
            spare=float(sum(question.servers)),
        )


def _prices(question: Question, rows: _Rows) -> Floats:
    """Of a server of each model: where none is there, each is a load as well."""
    return np.array(
        [question.prices[model[2]] * (1 if question.there.get(model) else 1 + question.load_share) for model in rows.models]
    )


class _Asked:
    """A question as a relaxation and its fleets. Rows that could not bind take no part: what a model has while others load
    where it can have nothing, what it needs no load for where it needs one always."""

    def __init__(self, question: Question, rows: _Rows, terms: Terms) -> None:
        self.question, self.rows, self.terms = question, rows, terms
        self.able = np.array([question.able.get(model, 0.0) for model in rows.models])
        self.there = np.array([float(question.there.get(model, 0)) for model in rows.models])

    def begun(self, left_s: Left) -> tuple[Relaxation, Fleets]:
        """Of all fleets."""
        relaxation, loads = self._relaxation(left_s)
        gone = [m for m, model in enumerate(self.rows.models) if model in self.question.unloadable and not self.there[m]]
        relaxation.upper[self.rows.of_models[gone]] = 0.0
        relaxation.idle(np.delete(self.rows.of_models, gone))
        return relaxation, self._fleets(loads)

    def reached(self, counts: Indices, left_s: Left) -> tuple[Indices, float, Floats] | None:
        """These servers and no others, what they cost, and what they serve; None if they cannot be."""
        rows, pools = self.rows, np.bincount(self.rows.pool_of, counts, len(self.question.servers))
        if not counts.any() or (pools > self.question.servers).any():
            return None
        relaxation, _ = self._relaxation(left_s)
        relaxation.lower[rows.counts] = relaxation.upper[rows.counts] = counts
        relaxation.hold(rows.counts[np.flatnonzero(counts)])
        if relaxation.solve()[0] != OPTIMAL:
            return None
        found = relaxation.read()
        return (counts, found.objective, found.usage[rows.served]) if found.serves else None

    def _relaxation(self, left_s: Left) -> tuple[Relaxation, Indices]:
        """Without servers that have no use; and the columns of loads, -1 where there are none."""
        question, rows = self.question, self.rows
        # To serve nothing costs nothing.
        made = Relaxation(rows.size, self.terms, PAYS, left_s)
        made.upper[rows.served], made.lower[rows.floor], made.lower[rows.likely] = [1.0, *question.slices], 0.0, 0.0
        made.upper[rows.pools], made.lower[rows.stays] = question.servers, 0.0
        made.upper[rows.able], made.upper[rows.there] = self.able, self.there
        there, able = np.flatnonzero(self.there), np.flatnonzero(self.able)
        stays = rows.stays if rows.making else rows.stays[able]
        floor = rows.floor if question.floor > 0 else ()
        made.bring([*rows.served, *rows.likely, *floor, *rows.pools, *rows.able[able], *rows.there[there], *stays])
        beside = [*rows.likely, *rows.there[there]]
        less = np.zeros((len(beside), rows.size))
        less[np.arange(len(beside)), beside] = -1.0
        models = [rows.models[m] for m in there]
        load_prices = [question.prices[model[2]] * question.load_share for model in models]
        most = [0.0 if model in question.unloadable else inf for model in models]
        costs = [*(-question.worth[0] * fall for fall in question.falls), *load_prices]
        slots = made.columns(less, np.array(costs), np.array([*question.ends, *most]))
        loads = np.full(len(rows.models), -1)
        loads[there] = slots[len(rows.likely) :]
        return made, loads

    def _fleets(self, loads: Indices) -> Fleets:
        question, rows = self.question, self.rows
        prices = np.array(question.prices)
        return Fleets(
            integers=rows.integers,
            rank=rows.rank[rows.integers],
            counts=rows.counts,
            pool_of=rows.pool_of,
            pools=rows.pools,
            limits=np.array(question.servers, dtype=np.float64),
            prices=prices,
            held=rows.of_models,
            place=3,
            first=np.unique(rows.model_of, return_index=True)[1],
            least=np.full(len(rows.models), -1.0),
            most=np.full(len(rows.models), inf),
            served=rows.served,
            step=0.0,
            model_of=rows.model_of,
            loads=loads,
            there=self.there,
            load_price=prices[[pool for *_, pool in rows.models]] * question.load_share,
        )


def transition_of(setting: Prepared, solver: Solver, slices: int) -> Transition | WrittenTransition:
    """That of a setting, from the last ones of this thread where possible."""
    if solver == "pulp" or njit is None:
        return WrittenTransition(setting)
    return keep(("transition", id(setting), slices), lambda: Transition(setting, slices))
