"""The problem of moving a cluster: one fleet, and two flows, while its models load and after. Knows no weights."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from math import inf, nan
from time import perf_counter
from typing import Any

import numpy as np
from msgspec import Struct

from loki_rl.control.allocator.implicit_model import keep
from loki_rl.control.branch_and_price.pricing import PAYS, Relaxation, Terms
from loki_rl.control.branch_and_price.route_pricing import graph_of, joined, servers_per_flow
from loki_rl.control.branch_and_price.search import BranchAndPrice, Fleets
from loki_rl.control.compiled import njit
from loki_rl.control.formulation.model import Counts, Flows, add_row, new_problem, set_objective
from loki_rl.control.formulation.prepared import Prepared
from loki_rl.control.formulation.problem import LONG_S
from loki_rl.control.formulation.request import Solver
from loki_rl.control.solver.pulp_highs import solve_written
from loki_rl.control.solver.simplex import OPTIMAL, Floats, Indices
from loki_rl.control.solver.solve import Solved

# Task, variant, and position of the server's type.
Model = tuple[int, int, int]


class Question(Struct, frozen=True):
    """What changes between calls.

    demand_rps: after the loads; loading_rps: what the same demand takes of servers while they last [1/s]. likely: share of
    the demand that counts in full, the rest `unlikely` as much. floor: on accuracy after the loads. servers: of each type.
    able: of each model, servers that it may have while others load; there: those that need no load. worth: of serving all
    while models load, of serving all after, and of accuracy. prices: of a server of each type, of which a load costs
    load_share. unloadable: models that have no servers but those there.
    """

    demand_rps: float
    loading_rps: float
    likely: float
    unlikely: float
    floor: float
    servers: tuple[int, ...]
    able: dict[Model, float]
    there: dict[Model, int]
    worth: tuple[float, float, float]
    prices: tuple[float, ...]
    load_share: float
    unloadable: frozenset[Model] = frozenset()


class Moves:
    """A question written down in PuLP: the fleet, its flow while models load and after. stays: servers per configuration
    that serve meanwhile. able, there: numbers of the rows of each model; loads: its columns."""

    def __init__(self, setting: Prepared, question: Question) -> None:
        self.setting, self.configurations = setting, setting.by_variant
        self.models: list[Model] = sorted({(c.task, c.variant, c.pool) for c in self.configurations})
        self.problem = problem = new_problem(maximise=True)
        self.counts = Counts(problem, [self.configurations], question.servers, (1.0,) * len(question.servers))
        self.after = Flows(problem, setting.variant_network, question.demand_rps, "c", served=(0.0, 1.0))
        self.loading = Flows(problem, setting.merged_network, question.loading_rps, "l", served=(0.0, 1.0))
        self.flows = (self.loading, self.after)
        self.stays = [problem.add_variable(f"k{k:04d}", 0) for k in range(len(self.configurations))]
        self.after.fit(problem, self.counts.columns)
        self.loading.fit(problem, self.stays)
        self.floor = add_row(problem, [*self.after.accuracy, (self.after.served, -question.floor)], ">=", 0)
        self.able, self.there, self.loads = list[int](), list[int](), list[Any]()
        for model in self.models:
            self._model(model, question)
        for pool in range(len(question.servers)) if setting.pipeline.swap == "make" else ():
            staying = [(self.stays[k], 1) for k, c in enumerate(self.configurations) if c.pool == pool]
            add_row(problem, [*staying, *((total, -value) for total, value in self.counts.all_of(pool))], "<=", 0)
        self.likely = [problem.add_variable(f"{flow.served.name}_likely", 0, question.likely) for flow in self.flows]
        for part, flow in zip(self.likely, self.flows, strict=True):
            add_row(problem, [(part, 1), (flow.served, -1)], "<=", 0)

    def _model(self, model: Model, question: Question) -> None:
        """The row of what it may have while others load, that of what it needs no load for, and its loads."""
        mine = [k for k, c in enumerate(self.configurations) if (c.task, c.variant, c.pool) == model]
        staying, wanted = [(self.stays[k], 1) for k in mine], [(self.counts.columns[k], -1) for k in mine]
        self.able.append(add_row(self.problem, staying, "<=", question.able.get(model, 0.0)))
        if self.setting.pipeline.swap == "break":
            add_row(self.problem, [*staying, *wanted], "<=", 0)
        most = 0 if model in question.unloadable else None
        self.loads.append(self.problem.add_variable("u" + "_".join(f"{part:02d}" for part in model), 0, most))
        self.there.append(add_row(self.problem, [*wanted, (self.loads[-1], 1)], ">=", -question.there.get(model, 0)))

    def aim(self, question: Question) -> None:
        """Maximise; what is served counts in full up to what is likely, beyond it less."""
        terms = [(column, question.worth[2] * value) for column, value in self.after.accuracy]
        for flow, part, worth in zip(self.flows, self.likely, question.worth[:2], strict=True):
            each = worth / question.likely
            terms += [(part, each * (1 - question.unlikely)), (flow.served, each * question.unlikely)]
        terms += [(total, -question.prices[pool]) for (_, pool, _), total in self.counts.totals.items()]
        share = question.load_share
        terms += [(load, -question.prices[model[2]] * share) for load, model in zip(self.loads, self.models, strict=True)]
        set_objective(self.problem, terms)


class WrittenTransition:
    """Every question is written down and solved by HiGHS from nothing; answers as of a Transition."""

    def __init__(self, setting: Prepared) -> None:
        self.setting = setting

    def ask(self, question: Question, time_limit_s: float, gap: float) -> Solved:
        """The fleet of the largest worth less prices."""
        moves = Moves(self.setting, question)
        moves.aim(question)
        solved = solve_written(moves.problem, time_limit_s, gap)
        if solved.found:
            self.counts = [round(solved.values[column.name]) for column in moves.counts.columns]
            self.flow = [solved.values[column.name] for column in moves.after.columns]
            self.served = solved.values[moves.after.served.name]
            self.accuracy = sum(value * solved.values[column.name] for column, value in moves.after.accuracy)
        return solved


class _Rows:
    """Numbers of the rows of a question, in this order: what is served and what of it is likely while models load and after,
    the floor, one that is not used, pools; then the integers to branch on: tasks, places (tasks on one type), models and
    counts; then of every model what it has while others load and what it needs no load for; then of every model (break) or
    pool (make) what stays of it.

    of, by [count, place]: of the configurations after, then while models load, the rows that a server of each counts in.
    """

    def __init__(self, setting: Prepared, types: int) -> None:
        self.configurations = setting.by_variant
        self.models: list[Model] = sorted({(c.task, c.variant, c.pool) for c in self.configurations})
        self.making = setting.pipeline.swap == "make"
        tasks = sorted({c.task for c in self.configurations})
        places = sorted({(c.task, c.pool) for c in self.configurations})
        size = len(self.models)
        stays = types if self.making else size
        ends = np.cumsum([0, 2, 2, 1, 1, types, len(tasks), len(places), size, len(self.configurations), size, size, stays])
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
        self.closes = np.ones(self.size, dtype=np.bool_)
        self.closes[self.there] = False
        self.rank = np.zeros(self.size, dtype=np.int64)
        self.rank[self.tasks], self.rank[self.of_models], self.rank[self.counts] = 4, 2, 1
        self.rank[self.places] = 3 if types > 1 else 0

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
    new one is warm. counts: servers per configuration. After the loads: flow per arc, as shares of the demand; served: the
    share of it; accuracy: the mean of all requests.
    """

    def __init__(self, setting: Prepared) -> None:
        self.setting, self._rows = setting, _Rows(setting, len(setting.by_type))
        self._after, self._loading = graph_of(setting.variant_network), graph_of(setting.merged_network)
        size = len(setting.by_variant)
        self._graph = joined([self._loading, self._after], np.array([size, 0]))
        self._ends = np.cumsum([0, len(self._loading.supply), len(self._after.supply)])
        self.counts, self.flow, self.served, self.accuracy = [0] * size, list[float](), 0.0, 0.0

    def ask(self, question: Question, time_limit_s: float, gap: float, models: dict[Model, int] | None = None) -> Solved:
        """The fleet of the largest worth less prices; models: of those that have so many servers of each model."""
        began = perf_counter()

        def left_s() -> float:
            return began + time_limit_s - perf_counter()

        relaxation, fleets = self._begun(question, left_s)
        search = BranchAndPrice(relaxation, fleets, gap)
        if models is not None:
            wanted = [models.get(model, 0) for model in self._rows.models]
            relaxation.lower[self._rows.of_models] = relaxation.upper[self._rows.of_models] = wanted
        elif (start := self._start(question)) is not None:
            if (cost := self._cost(relaxation, start)) is not None:
                search.know(start, cost, None)
            self._free(relaxation)
        answer = search.run()
        if answer.outcome == "doubt":
            return self._written(question, left_s(), gap)
        if answer.counts is None:
            return Solved("unknown", "Time limit", nan, -answer.bound, perf_counter() - began)
        self._tell(question, answer.counts)
        outcome, word = ("optimal", "Optimal") if answer.outcome == "optimal" else ("feasible", "Time limit")
        return Solved(outcome, word, -answer.objective, -answer.bound, perf_counter() - began)  # type: ignore[arg-type]

    def _written(self, question: Question, time_limit_s: float, gap: float) -> Solved:
        """Where rounding errors leave doubt: the reference."""
        written = WrittenTransition(self.setting)
        solved = written.ask(question, time_limit_s, gap)
        if solved.found:
            self.counts, self.flow, self.served, self.accuracy = (
                written.counts, written.flow, written.served, written.accuracy,
            )  # fmt: skip
        return solved

    def _cost(self, relaxation: Relaxation, counts: Indices | Floats) -> float | None:
        """Of these servers and no others; None if they cannot be."""
        rows = self._rows
        relaxation.lower[rows.counts] = relaxation.upper[rows.counts] = counts
        relaxation.hold(rows.counts[np.flatnonzero(counts)])
        return relaxation.read().objective if relaxation.solve()[0] == OPTIMAL else None

    def _free(self, relaxation: Relaxation) -> None:
        relaxation.lower[self._rows.counts], relaxation.upper[self._rows.counts] = -inf, inf

    def _tell(self, question: Question, counts: Indices | Floats) -> None:
        """What these servers serve."""
        relaxation, _ = self._begun(question, lambda: LONG_S, telling=True)
        self._cost(relaxation, counts)
        found = relaxation.read()
        flow = found.flow[len(self._loading.number) :]
        told = np.zeros(len(flow))
        told[self._after.number] = flow
        self.counts, self.flow = [int(count) for count in counts], told.tolist()
        self.served = float(found.usage[self._rows.served[1]])
        self.accuracy = float(self._after.accuracy @ flow)

    def _begun(self, question: Question, left_s: Callable[[], float], telling: bool = False) -> tuple[Relaxation, Fleets]:
        rows, loading, after = self._rows, self._loading, self._after
        prices, worth = np.array(question.prices), np.array(question.worth[:2]) / question.likely
        of_pool = prices[rows.pool_of]
        needs = servers_per_flow(loading, question.loading_rps), servers_per_flow(after, question.demand_rps)
        terms = Terms(
            graph=self._graph,
            ends=self._ends,
            servers=np.concatenate(needs),
            of=rows.of,
            by=rows.by,
            price=np.concatenate([of_pool, np.zeros(len(of_pool))]),
            units=np.stack([rows.served, rows.likely], axis=1),
            floor=np.array([rows.unused[0], rows.floor[0]]),
            least=int(rows.unused[0]),
            level=np.array([0.0, question.floor]),
            weight=np.zeros(2),
            accurate=np.array([0.0, question.worth[2]]),
            served=worth * question.unlikely,
            most=np.ones(2),
            missing=np.arange(2),
            lines=rows.lines,
            line_price=prices[rows.lines[:, 0] - rows.pools[0]],
            line_of=rows.line_of,
            closes=rows.closes,
            spare=float(sum(question.servers)),
        )
        # To serve nothing costs nothing.
        made = Relaxation(rows.size, terms, PAYS, left_s, int(np.diff(self._ends).max()) if telling else 0)
        made.upper[rows.served], made.lower[rows.floor], made.lower[rows.likely] = 1.0, 0.0, 0.0
        made.upper[rows.pools], made.lower[rows.stays] = question.servers, 0.0
        made.upper[rows.able] = [question.able.get(model, 0.0) for model in rows.models]
        made.upper[rows.there] = there = np.array([float(question.there.get(model, 0)) for model in rows.models])
        made.bring([*rows.served, *rows.likely, *rows.floor, *rows.pools, *rows.able, *rows.there, *rows.stays])
        beside = [*rows.likely, *rows.there]
        less = np.zeros((len(beside), rows.size))
        less[np.arange(len(beside)), beside] = -1.0
        pool_of = [pool for _, _, pool in rows.models]
        most = [0.0 if model in question.unloadable else inf for model in rows.models]
        slots = made.columns(
            less,
            np.concatenate([-worth * (1 - question.unlikely), prices[pool_of] * question.load_share]),
            np.array([question.likely, question.likely, *most]),
        )
        made.hold(rows.of_models)
        integers = np.flatnonzero(rows.rank)
        fleets = Fleets(
            integers=integers,
            rank=rows.rank[integers],
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
            loads=slots[2:],
            there=there,
        )
        return made, fleets

    def _start(self, question: Question) -> Indices | None:
        """What is there, as a first plan."""
        left = dict(question.there)
        counts = np.array([left.pop((c.task, c.variant, c.pool), 0) for c in self._rows.configurations])
        pools = np.bincount(self._rows.pool_of, counts, len(question.servers))
        return counts if (pools <= question.servers).all() else None


def transition_of(setting: Prepared, solver: Solver) -> Transition | WrittenTransition:
    """That of a setting, from the last ones of this thread where possible."""
    if solver == "pulp" or njit is None:
        return WrittenTransition(setting)
    return keep(("transition", id(setting)), lambda: Transition(setting))
