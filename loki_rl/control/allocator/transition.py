"""The problem of moving a cluster: one fleet, and two flows, while its models load and after. Kept between calls, as what a
question changes are coefficients and bounds. Owns the rows and their changes; knows no weights and no state of servers."""

from __future__ import annotations

from math import inf, nan
from typing import Any

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from loki_rl.control.allocator.cached_model import USUAL_SERVERS, keep
from loki_rl.control.formulation.model import Counts, Flows, add_row, new_problem, set_objective
from loki_rl.control.formulation.prepared import Prepared
from loki_rl.control.formulation.problem import LONG_S
from loki_rl.control.formulation.request import Solver
from loki_rl.control.solver.program import Program
from loki_rl.control.solver.pulp_highs import solve_written
from loki_rl.control.solver.simplex import Floats, Indices
from loki_rl.control.solver.solve import Solved, solve_again

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


# Where nothing is asked yet: half of the usual servers' time goes by with loads, and nothing is there.
USUAL = Question(1.0, 1.0, 1.0, 0.2, 0.0, (), {}, {}, (2.0, 3.0, 1.0), (), 0.5)


class Transition:
    """Ask, then read the answer before the next question. Equal questions get equal answers, whatever was asked before.

    While models load any variant may serve. break: a server that loads serves nothing; make: its old model serves until the
    new one is warm. counts: servers per configuration. After the loads: flow per arc, as shares of the demand; served: the
    share of it; accuracy: the mean of all requests.
    """

    def __init__(self, setting: Prepared) -> None:
        types = len(setting.by_type)
        self._usual = replace(USUAL, servers=(USUAL_SERVERS,) * types, prices=(1e-3,) * types)
        moves = Moves(setting, self._usual)
        set_objective(moves.problem, [(moves.after.served, 1.0)])
        self.program = program = Program(moves.problem)
        counts, self.models = moves.counts, moves.models
        self._needs, self._loads = [flow.servers for flow in moves.flows], [flow.entries(program) for flow in moves.flows]
        self._floor = program.entries(moves.floor, [moves.after.served])
        self._servers = np.array(counts.rows)
        self._able, self._there = np.array(moves.able), np.array(moves.there)
        self._configurations = moves.configurations
        self._counts, self._arcs = program.columns(counts.columns), program.columns(moves.after.columns)
        self._wholes = np.concatenate([self._counts, program.columns([total for total, _ in counts.sums])])
        self._pool_of = np.array([c.pool for _, c in counts.configurations] + [pool for _, pool in counts.sums])
        self._totals = program.columns([counts.models[0, pool, task, variant] for task, variant, pool in self.models])
        self._served = program.columns([flow.served for flow in moves.flows])
        self._likely = program.columns(moves.likely)
        self._accuracy = program.terms(moves.after.accuracy)
        self._priced = self._by_pool([(total, key[1]) for key, total in counts.totals.items()])
        self._loaded = self._by_pool([(load, model[2]) for load, model in zip(moves.loads, self.models, strict=True)])
        self._now: tuple[float, ...] = ()
        self._begin()

    def _by_pool(self, terms: list[tuple[Any, int]]) -> tuple[Indices, Indices]:
        return self.program.columns([column for column, _ in terms]), np.array([pool for _, pool in terms])

    def _begin(self) -> None:
        """The relaxation that every question starts from: of half the demand that the usual servers can serve, all empty."""
        self._tune(self._usual, served=inf)
        self._aim(self._usual)
        most, _ = solve_again(self.program, LONG_S, integer=False)
        self.program.kept = False
        demand = max(most.objective, 1e-6) / 12
        self._tune(replace(self._usual, demand_rps=demand, loading_rps=demand), served=1.0)
        solve_again(self.program, LONG_S, integer=False)

    def ask(self, question: Question, time_limit_s: float, gap: float, models: dict[Model, int] | None = None) -> Solved:
        """The fleet of the largest worth less prices; models: of those that have so many servers of each model."""
        self._tune(question, served=1.0)
        self._aim(question)
        if models is not None:
            totals = [models.get(model, 0) for model in self.models]
            self.program.lower[self._totals] = self.program.upper[self._totals] = totals
        solved, values = solve_again(self.program, time_limit_s, start=self._start(question), gap=gap)
        if values is not None:
            self.counts = [round(value) for value in values[self._counts].tolist()]
            self.flow = values[self._arcs].tolist()
            self.served, self.accuracy = float(values[self._served[1]]), float(self._accuracy @ values)
        return solved

    def _tune(self, question: Question, served: float) -> None:
        program, now = self.program, (question.loading_rps, question.demand_rps, question.floor)
        if now != self._now:
            self._now = now
            needs = [servers(rps) for servers, rps in zip(self._needs, now, strict=False)]
            program.change(np.concatenate([*self._loads, self._floor]), np.concatenate([*needs, [-question.floor]]))
        program.row_upper[self._servers] = question.servers
        program.lower[self._wholes], program.upper[self._wholes] = 0, np.array(question.servers)[self._pool_of]
        program.row_upper[self._able] = [question.able.get(model, 0.0) for model in self.models]
        program.row_lower[self._there] = [-question.there.get(model, 0) for model in self.models]
        program.upper[self._loaded[0]] = [0.0 if model in question.unloadable else inf for model in self.models]
        program.upper[self._likely], program.upper[self._served] = question.likely, served

    def _aim(self, question: Question) -> None:
        """Maximise; what is served counts in full up to what is likely, beyond it less."""
        gains, prices = question.worth[2] * self._accuracy, np.array(question.prices)
        worth = np.array(question.worth[:2]) / question.likely
        gains[self._likely], gains[self._served] = worth * (1 - question.unlikely), worth * question.unlikely
        gains[self._priced[0]] = -prices[self._priced[1]]
        gains[self._loaded[0]] = -prices[self._loaded[1]] * question.load_share
        self.program.sign, self.program.costs = -1.0, -gains

    def _start(self, question: Question) -> Floats | None:
        """What is there, as a first plan."""
        left, values = dict(question.there), np.full(len(self.program.variables), nan)
        counts = np.array([left.pop((c.task, c.variant, c.pool), 0) for c in self._configurations])
        values[self._counts] = counts
        pools = np.bincount(self._pool_of[: len(counts)], counts, len(question.servers))
        return values if (pools <= question.servers).all() else None


def transition_of(setting: Prepared, solver: Solver) -> Transition | WrittenTransition:
    """That of a setting, from the last ones of this thread where possible."""
    return WrittenTransition(setting) if solver == "pulp" else kept_transition(setting)


def kept_transition(setting: Prepared) -> Transition:
    """As `transition_of`, for the own search."""
    return keep(("transition", id(setting)), lambda: Transition(setting))
