"""The problem of moving a cluster written down in PuLP: one fleet, the flow while its models load, and one of each slice of
demand after. Knows no weights."""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from loki_rl.control.formulation.model import Counts, Flows, add_row, fit_together, new_problem, set_objective
from loki_rl.control.formulation.prepared import Prepared
from loki_rl.control.solver.pulp_highs import solve_written
from loki_rl.control.solver.simplex import Floats
from loki_rl.control.solver.solve import Solved

# Task, variant, and position of the server's type.
Model = tuple[int, int, int]


class Question(Struct, frozen=True):
    """What changes between calls.

    demand_rps: the most that may come after the loads; loading_rps: what the same demand takes of servers while they last
    [1/s]. slices: shares of it that sum to 1, from what is likely to what is not; chances: that each comes. floor: on
    accuracy after the loads. servers: of each type. able: of each model, servers that it may have while others load; there:
    those that need no load. start: servers per configuration that are possible, to begin with. worth: of serving all while
    models load, of serving all after, and of accuracy. prices: of a server of each type, of which a load costs load_share.
    unloadable: models that have no servers but those there.
    """

    demand_rps: float
    loading_rps: float
    slices: tuple[float, ...]
    chances: tuple[float, ...]
    floor: float
    servers: tuple[int, ...]
    able: dict[Model, float]
    there: dict[Model, int]
    start: tuple[int, ...]
    worth: tuple[float, float, float]
    prices: tuple[float, ...]
    load_share: float
    unloadable: frozenset[Model] = frozenset()

    def needs(self, servers: Callable[[float], Floats]) -> list[Floats]:
        """Of each slice, servers on every arc for the whole demand, had all of it the needs of the slice: more demand needs
        fewer idle ones in proportion. servers: those for a demand [1/s]."""
        found, below, end = list[Floats](), np.zeros(1), 0.0
        for share in self.slices:
            end += share
            upto = servers(self.demand_rps * end)
            found.append((upto - below) / share)
            below = upto
        return found

    @property
    def ends(self) -> list[float]:
        """Of all slices but the last, as shares of the demand."""
        return list(accumulate(self.slices))[:-1]

    @property
    def falls(self) -> list[float]:
        """By what each slice but the first is less likely than the one below."""
        return [likelier - chance for likelier, chance in pairwise(self.chances)]

    @property
    def size(self) -> float:
        """No objective is larger: all that may come is served by its chance, or all servers are paid for."""
        served = sum(share * chance for share, chance in zip(self.slices, self.chances, strict=True))
        everything = sum(count * price for count, price in zip(self.servers, self.prices, strict=True))
        return max(served * sum(self.worth), everything)

    def scaled(self, by: float) -> Question:
        """With an objective so many times as large."""
        meanwhile, after, accuracy = self.worth
        worth = (by * meanwhile, by * after, by * accuracy)
        return replace(self, worth=worth, prices=tuple(by * price for price in self.prices))


class Moves:
    """A question written down: the fleet, its flow while models load, and those of the slices after. stays: servers per
    configuration that serve meanwhile. likely: what is served meanwhile, up to the end of each slice but the last. loads: of
    each model."""

    def __init__(self, setting: Prepared, question: Question) -> None:
        self.setting, self.configurations = setting, setting.by_variant
        self.models: list[Model] = sorted({(c.task, c.variant, c.pool) for c in self.configurations})
        self.problem = new_problem(maximise=True)
        self.counts = Counts(self.problem, [self.configurations], question.servers, (1.0,) * len(question.servers))
        self.stays = [self.problem.add_variable(f"k{k:04d}", 0) for k in range(len(self.configurations))]
        self._serve_after(question)
        self._serve_meanwhile(question)
        self.loads = [self._load(model, question) for model in self.models]
        if setting.pipeline.swap == "make":
            self._stay_by_type(len(question.servers))
        self._aim(question)

    def _serve_after(self, question: Question) -> None:
        network = self.setting.variant_network
        self.after = [
            Flows(self.problem, network, question.demand_rps, f"c{place}_", served=(0.0, share))
            for place, share in enumerate(question.slices)
        ]
        fit_together(self.problem, self.after, question.needs(self.after[0].servers), self.counts.columns)
        accuracy = [term for flow in self.after for term in (*flow.accuracy, (flow.served, -question.floor))]
        add_row(self.problem, accuracy, ">=", 0)

    def _serve_meanwhile(self, question: Question) -> None:
        network = self.setting.merged_network
        self.loading = Flows(self.problem, network, question.loading_rps, "l", served=(0.0, 1.0))
        self.loading.fit(self.problem, self.stays)
        self.likely = [self.problem.add_variable(f"likely{place}", 0, end) for place, end in enumerate(question.ends)]
        for part in self.likely:
            add_row(self.problem, [(part, 1), (self.loading.served, -1)], "<=", 0)

    def _load(self, model: Model, question: Question) -> Any:
        """The loads of a model, with what it may have while others load."""
        mine = [k for k, c in enumerate(self.configurations) if (c.task, c.variant, c.pool) == model]
        staying, wanted = [(self.stays[k], 1) for k in mine], [(self.counts.columns[k], -1) for k in mine]
        add_row(self.problem, staying, "<=", question.able.get(model, 0.0))
        if self.setting.pipeline.swap == "break":
            add_row(self.problem, [*staying, *wanted], "<=", 0)
        most = 0 if model in question.unloadable else None
        loads = self.problem.add_variable("u" + "_".join(f"{part:02d}" for part in model), 0, most)
        add_row(self.problem, [*wanted, (loads, 1)], ">=", -question.there.get(model, 0))
        return loads

    def _stay_by_type(self, types: int) -> None:
        """No more servers serve on than the plan uses."""
        for pool in range(types):
            staying = [(self.stays[k], 1) for k, c in enumerate(self.configurations) if c.pool == pool]
            add_row(self.problem, [*staying, *((total, -value) for total, value in self.counts.all_of(pool))], "<=", 0)

    def _aim(self, question: Question) -> None:
        """Maximise; what is served counts by its chance to come."""
        meanwhile, after, accuracy = question.worth
        terms = [(self.loading.served, meanwhile * question.chances[-1])]
        terms += [(part, meanwhile * fall) for part, fall in zip(self.likely, question.falls, strict=True)]
        for flow, chance in zip(self.after, question.chances, strict=True):
            terms += [(column, accuracy * chance * value) for column, value in flow.accuracy]
            terms.append((flow.served, after * chance))
        terms += [(total, -question.prices[pool]) for (_, pool, _), total in self.counts.totals.items()]
        share = question.load_share
        terms += [(load, -question.prices[model[2]] * share) for load, model in zip(self.loads, self.models, strict=True)]
        set_objective(self.problem, terms)


class WrittenTransition:
    """Every question is written down and solved by HiGHS from nothing; answers as of a Transition."""

    def __init__(self, setting: Prepared) -> None:
        self.setting = setting
        self.counts, self.served = list[int](), list[float]()

    def ask(self, question: Question, time_limit_s: float, gap: float) -> Solved:
        """The fleet of the largest worth less prices."""
        moves = Moves(self.setting, question)
        solved = solve_written(moves.problem, time_limit_s, gap)
        if solved.found:
            self.counts = [round(solved.values[column.name]) for column in moves.counts.columns]
            self.served = [solved.values[flow.served.name] for flow in moves.after]
        return solved
