"""Trying everything: every integer fleet of a small instance, explicit route prefixes, no reduction, HiGHS for the flows.
Owns the instances and the verdict; uses nothing of the model that it judges."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations_with_replacement, pairwise, product
from math import exp, inf

import highspy
import numpy as np
from hypothesis import strategies as st

from loki_rl.control.formulation.latency import latency_model
from loki_rl.control.formulation.request import Part, Request
from loki_rl.core.pipeline import Latency, Pipeline, Task, Variant
from loki_rl.core.servers.server_type import as_run_by

Config = tuple[int, int, int, int]
Prefix = tuple[Config, ...]
Usage = tuple[int, ...]
TIE = 1e-7
# A solver's tolerance serves that much of a small demand with no server at all.
NOTHING = 1e-5
HIGHS = highspy.Highs()  # type: ignore[no-untyped-call]
HIGHS.silent()
HIGHS.setOptionValue("threads", 1)  # as in the solver that is judged: of one process all must ask for the same number


@st.composite
def pipelines(draw: st.DrawFn, most_variants: int) -> Pipeline:
    parents = draw(st.sampled_from([(-1,), (-1, 0), (-1, -1), (-1, 0, 0), (-1, 0, 1)]))
    names = [f"t{i}" for i in range(len(parents))]
    tasks = []
    for i, parent in enumerate(parents):
        children = [names[j] for j, p in enumerate(parents) if p == i]
        variants = tuple(
            draw(variant(f"v{k}", children)) for k in range(draw(st.integers(1, most_variants - len(parents) // 3)))
        )
        entry = 0.0 if parent >= 0 else draw(st.sampled_from([1.0, 0.5, 2.0]))
        tasks.append(Task(names[i], variants, None if parent < 0 else names[parent], entry))
    leaves = [name for i, name in enumerate(names) if i not in parents]
    weights = [draw(st.integers(0, 3)) for _ in leaves]
    weights = weights if sum(weights) else [1] * len(leaves)
    omega = {leaf: weight / sum(weights) for leaf, weight in zip(leaves, weights, strict=True)}
    return Pipeline("random", 1.0, tuple(tasks), omega)


@st.composite
def variant(draw: st.DrawFn, name: str, children: list[str]) -> Variant:
    base, each = draw(st.integers(2, 30)), draw(st.integers(1, 20))
    latency = {}
    for batch in draw(st.sampled_from([(1,), (1, 2), (1, 4)])):
        p50 = (base + each * batch) / 1000
        latency[batch] = Latency(p50, p50 * 1.1, p50 * 1.2)
    accuracy = draw(st.sampled_from([0.5, 0.6, 0.8, 0.9, 1.0]))
    fanout = {child: draw(st.sampled_from([0.0, 0.5, 1.0, 2.0])) for child in children}
    return Variant(name, accuracy, latency, fanout)


class Brute:
    """Every fleet of a small instance. Values are in shares of the demand."""

    def __init__(self, pipeline: Pipeline, request: Request) -> None:
        self.pipeline, self.request = pipeline, request
        by_type = [as_run_by(pipeline, kind) for kind in request.types]
        models = [latency_model(request.queueing, one, pipeline.slo_s) for one in by_type]
        self.configs: list[Config] = [
            (t, v, b, pool)
            for pool, one in enumerate(by_type)
            for t, task in enumerate(one.tasks)
            for v, x in enumerate(task.variants)
            for b in x.latency
            if x.runnable
        ]
        self.cost = {c: models[c[3]].cost_us(*c[:3]) for c in self.configs}
        self.rate = {c: models[c[3]].rate(*c[:3]) / (1 + request.headroom) for c in self.configs}
        self.reserve = {c: models[c[3]].reserve(*c[:3]) for c in self.configs}
        self.prefixes = [p for entry in pipeline.entries for p in self._extend((), entry, models[0].budget_us)]
        self.number = {p: i for i, p in enumerate(self.prefixes)}
        self._matrices()

    def _extend(self, prefix: Prefix, task: int, left: int) -> Iterator[Prefix]:
        for config in (c for c in self.configs if c[0] == task):
            if self.cost[config] + self._tail(task) <= left:
                yield (*prefix, config)
                for child in self.pipeline.children[task]:
                    yield from self._extend((*prefix, config), child, left - self.cost[config])

    def _tail(self, task: int) -> int:
        costs = (
            min((self.cost[c] for c in self.configs if c[0] == child), default=10**9) + self._tail(child)
            for child in self.pipeline.children[task]
        )
        return max(costs, default=0)

    def _weight(self, prefix: Prefix) -> float:
        weight = self.pipeline.tasks[prefix[0][0]].entry
        for parent, child in pairwise(prefix):
            variant = self.pipeline.tasks[parent[0]].variants[parent[1]]
            weight *= variant.fanout[self.pipeline.tasks[child[0]].name]
        return weight

    def _idle(self, prefix: Prefix) -> float:
        """Children of one item come at once."""
        if len(prefix) == 1:
            return self.reserve[prefix[0]]
        above = self.pipeline.tasks[prefix[-2][0]].variants[prefix[-2][1]]
        return self.reserve[prefix[-1]] * (1 + above.fanout[self.pipeline.tasks[prefix[-1][0]].name])

    def expected(self, leaf: int, path: tuple[int, ...]) -> float:
        """Written out for depths 1 to 3: the branch may be empty after any stage."""
        line = [self.pipeline.tasks[t] for t in self.pipeline.lines[leaf]]
        accuracy = self.pipeline.accuracy(leaf, path)

        def empty(s: float) -> float:
            return {1.0: s, 0.5: 0.5 + 0.5 * s, 2.0: s * s}[line[0].entry]

        m = [task.variants[v].fanout[below.name] for task, v, below in zip(line, path, line[1:], strict=False)]
        gone = [empty(0.0)]
        if len(line) > 1:
            gone.append(empty(exp(-m[0])))
        if len(line) > 2:
            gone.append(empty(exp(m[0] * (exp(-m[1]) - 1))))
        total, before = 0.0, 0.0
        for depth, chance in enumerate(gone):
            total += (chance - before) * self.pipeline.best_completion(leaf, path[:depth])
            before = chance
        return total + (1 - before) * accuracy

    def _matrices(self) -> None:
        """Columns: one flow per prefix, then the served share."""
        size = len(self.prefixes) + 1
        rows = []
        for entry in self.pipeline.entries:
            rows.append(self._row(size, [(p, 1.0) for p in self.prefixes if len(p) == 1 and p[0][0] == entry]))
            rows[-1][-1] = -1
        for prefix in self.prefixes:
            for child in self.pipeline.children[prefix[-1][0]]:
                below = [(p, 1.0) for p in self.prefixes if p[:-1] == prefix and p[-1][0] == child]
                rows.append(self._row(size, [*below, (prefix, -1.0)]))
        self.balance = np.array(rows)
        self.loads, self.idle = (
            np.array([self._row(size, [(p, each(p)) for p in self.prefixes if p[-1] == c]) for c in self.configs])
            for each in (lambda p: self._weight(p) / self.rate[p[-1]], self._idle)
        )
        leaves = set(self.pipeline.leaves)
        weights = [self.pipeline.leaf_weights.get(task.name, 0.0) for task in self.pipeline.tasks]
        self.served = np.zeros(size)
        self.served[-1] = 1
        self.accuracy = np.zeros(size)
        self.best = np.ones(size, dtype=bool)
        for p in self.prefixes:
            if p[-1][0] in leaves:
                leaf = p[-1][0]
                value = self.expected(leaf, tuple(config[1] for config in p))
                self.accuracy[self.number[p]] = weights[leaf] * value
                if weights[leaf] and value < self.pipeline.best_completion(leaf, ()) - 1e-9:
                    self.best[self.number[p]] = False

    def _row(self, size: int, terms: list[tuple[Prefix, float]]) -> np.ndarray:
        row = np.zeros(size)
        for prefix, value in terms:
            row[self.number[prefix]] += value
        return row

    def solve(
        self, fleet: np.ndarray, goal: np.ndarray, rps: float | None = None, best_only: bool = False, least: float = 1.0
    ) -> float:
        """Largest value of the goal for a fleet that serves a demand whole (at least: this share), -inf if there is none."""
        busy = self.loads * (rps or self.request.demand_rps)
        rows, upper = (busy + np.sqrt(busy**2 + 4 * busy * self.idle)) / 2, fleet.astype(float)
        if self.request.min_accuracy > 0:
            floor = -self.accuracy.copy()
            floor[-1] = self.request.min_accuracy
            rows, upper = np.vstack([rows, floor]), np.append(upper, 0.0)
        highest = np.where(self.best | (not best_only), np.inf, 0.0)
        highest[-1] = least
        lowest = np.append(np.zeros(len(self.prefixes)), least)
        return _largest(goal, (lowest, highest), self.balance, rows, upper)

    def most(self, fleet: np.ndarray, known: float = 0.0) -> float:
        """Largest share of the demand that a fleet can serve, with the idle servers which that share needs (bisection).

        known: nothing below it is of interest."""
        low, high = known, 1.0
        if self.solve(fleet, self.served) > -inf:
            return 1.0
        if known and self.solve(fleet, self.served, known * self.request.demand_rps) == -inf:
            return 0.0
        while high - low > 1e-9:
            share = (low + high) / 2
            if self.solve(fleet, self.served, share * self.request.demand_rps) > -inf:
                low = share
            else:
                high = share
        return low

    def fleets(self, usage: Sequence[int]) -> Iterator[np.ndarray]:
        """All that use so many servers of each type; none of a type on which nothing runs."""
        pools = [[k for k, c in enumerate(self.configs) if c[3] == pool] for pool in range(len(usage))]
        each = [combinations_with_replacement(mine, used if mine else 0) for mine, used in zip(pools, usage, strict=True)]
        for chosen in product(*each):
            yield np.bincount(np.array(sum(chosen, ()), dtype=int), minlength=len(self.configs))

    @property
    def possible(self) -> bool:
        """Whether some way fits the SLO from every entry, and the most accurate ones reach the floor."""
        fits = all(any(p[0][0] == entry for p in self.prefixes) for entry in self.pipeline.entries)
        ends = {
            leaf: [self.accuracy[self.number[p]] for p in self.prefixes if p[-1][0] == leaf] for leaf in self.pipeline.leaves
        }
        return fits and sum(max(values) for values in ends.values()) >= self.request.min_accuracy


def _largest(
    goal: np.ndarray, box: tuple[np.ndarray, np.ndarray], equal: np.ndarray, below: np.ndarray, upper: np.ndarray
) -> float:
    """Largest goal x in the box with equal x = 0 and below x <= upper, -inf if there is none. HiGHS is told directly: SciPy
    takes ten times as long to pass on what is solved in a tenth of a millisecond."""
    matrix = np.vstack([equal, below])
    row, column = np.nonzero(matrix)
    model = highspy.HighsLp()
    model.num_row_, model.num_col_ = matrix.shape
    model.col_cost_, (model.col_lower_, model.col_upper_) = -goal, box
    model.row_lower_ = np.append(np.zeros(len(equal)), np.full(len(below), -inf))
    model.row_upper_ = np.append(np.zeros(len(equal)), upper)
    model.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
    model.a_matrix_.start_ = np.searchsorted(row, np.arange(len(matrix) + 1)).astype(np.int32)
    model.a_matrix_.index_, model.a_matrix_.value_ = column.astype(np.int32), matrix[row, column]
    HIGHS.passModel(model)
    HIGHS.run()
    optimal = HIGHS.getModelStatus() == highspy.HighsModelStatus.kOptimal
    return -HIGHS.getInfo().objective_function_value if optimal else -inf


class Alone:
    """What one pipeline does with any number of servers of each type, to itself."""

    def __init__(self, part: Part) -> None:
        self.brute, self._known = Brute(part.pipeline, part.request), dict[tuple[str, Usage], float]()

    def best_only(self, usage: Usage) -> float:
        """0 if all can be served with the best variants, else -inf."""
        return self._once("best", usage)

    def accuracy(self, usage: Usage) -> float:
        """Best accuracy that serves all, -inf if none does."""
        return self._once("accuracy", usage)

    def served(self, usage: Usage) -> float:
        return self._once("served", usage)

    def _once(self, what: str, usage: Usage) -> float:
        key = (what, usage)
        if key not in self._known:
            self._known[key] = {"best": self._best, "accuracy": self._accuracy, "served": self._served}[what](usage)
        return self._known[key]

    def _best(self, usage: Usage) -> float:
        fits = any(self.brute.solve(f, self.brute.served, best_only=True) > -inf for f in self.brute.fleets(usage))
        return 0.0 if fits else -inf

    def _accuracy(self, usage: Usage) -> float:
        return max((self.brute.solve(f, self.brute.accuracy) for f in self.brute.fleets(usage)), default=-inf)

    def _served(self, usage: Usage) -> float:
        most = 0.0
        for fleet in self.brute.fleets(usage):
            most = max(most, self.brute.most(fleet, most))
        return most

    def accuracy_of_the_most(self, usage: Usage, most: float) -> float:
        """Best accuracy of what is served, where that is the most."""
        brute, found = self.brute, -inf
        for fleet in brute.fleets(usage):
            if brute.most(fleet, most * (1 - 1e-6)) > 0:
                rps = most * brute.request.demand_rps
                found = max(found, brute.solve(fleet, brute.accuracy, rps, least=1 - 1e-6) / (1 - 1e-6))
        return found


class Verdict:
    """mode; value: price, or accuracy or served share by weight; price: where it is promised to be least; accuracy: of a
    single pipeline."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self.mode, self.value, self.price, self.accuracy = "infeasible", 0.0, 0.0, 0.0
        self._parts, self._alone = parts, [Alone(part) for part in parts]
        self._counts = tuple(kind.count for kind in parts[0].request.types)
        self._prices = [kind.price for kind in parts[0].request.types]
        total = sum(part.weight for part in parts)
        self._weights = [part.weight / total for part in parts]
        if all(alone.brute.possible for alone in self._alone) and not self._hardware() and not self._accurate():
            self._shed()

    def _price(self, splits: Sequence[Usage]) -> float:
        return sum(price * sum(split[pool] for split in splits) for pool, price in enumerate(self._prices))

    def _splits(self, whole: bool = False) -> Iterator[tuple[Usage, ...]]:
        """Ways to deal the servers to the parts, cheapest first; whole: all of them."""
        options = list(product(*(range(count + 1) for count in self._counts)))
        found = [
            splits
            for splits in product(options, repeat=len(self._parts))
            for used in (tuple(map(sum, zip(*splits, strict=True))),)
            if used == self._counts or (not whole and all(a <= b for a, b in zip(used, self._counts, strict=True)))
        ]
        return iter(sorted(found, key=self._price))

    def _hardware(self) -> bool:
        for splits in self._splits():
            if all(alone.best_only(split) == 0 for alone, split in zip(self._alone, splits, strict=True)):
                self.mode, self.value, self.price = "hardware", self._price(splits), self._price(splits)
                self.accuracy = self._parts[0].pipeline.best_accuracy
                return True
        return False

    def _weighed(self, values: Sequence[float]) -> float:
        return sum(weight * value for weight, value in zip(self._weights, values, strict=True))

    def _accurate(self) -> bool:
        def reached(splits: tuple[Usage, ...]) -> float:
            return self._weighed([alone.accuracy(split) for alone, split in zip(self._alone, splits, strict=True)])

        best = max(reached(splits) for splits in self._splits(whole=True))
        if best > -inf:
            cheapest = next(splits for splits in self._splits() if reached(splits) >= best - TIE)
            self.mode, self.value, self.price, self.accuracy = "accuracy", best, self._price(cheapest), best
        return best > -inf

    def _shed(self) -> None:
        def served(splits: tuple[Usage, ...]) -> float:
            return self._weighed([alone.served(split) for alone, split in zip(self._alone, splits, strict=True)])

        best = max(served(splits) for splits in self._splits(whole=True))
        if best >= NOTHING:
            self.mode, self.value = "shed", best
            if len(self._parts) == 1:
                self.accuracy = self._alone[0].accuracy_of_the_most(self._counts, best)
