"""The flow network: which way requests may take through the configurations inside the latency budget, as states and arcs
with O(1) coefficients."""

from __future__ import annotations

from bisect import bisect_right

from msgspec import Struct

from loki_rl.control.formulation.accuracy import Accuracies
from loki_rl.control.formulation.configurations import Configuration, Tree
from loki_rl.core.pipeline import Pipeline


class Arc(Struct, frozen=True):
    """Flow out of a state through a configuration (index, or -1: give up latency budget, do no work).

    load: items per unit of flow. reserve: servers that must stay idle in a busy pool, if all flow goes here. accuracy:
    weighted accuracy per unit of flow, 0 before a leaf. into: (state, gain) that the flow feeds.
    """

    state: int
    configuration: int
    load: float
    reserve: float
    accuracy: float
    into: tuple[tuple[int, float], ...]


class State(Struct, frozen=True):
    """Flow that still has to be served by a task: `path` of variants so far, `remaining_us` of the budget, `weight` items
    per unit of flow, `supply` units that enter here per served request."""

    task: int
    path: tuple[int, ...]
    remaining_us: int
    weight: float
    supply: float


class Network(Struct, frozen=True):
    """Every state balances: flow out = supply x served + sum of gain x flow of the arcs that feed it.

    configurations: what the arcs index.
    """

    configurations: tuple[Configuration, ...]
    states: tuple[State, ...]
    arcs: tuple[Arc, ...]


def at_once(pipeline: Pipeline, task: int, path: tuple[int, ...]) -> float:
    """Items that the mean item of a task arrives with, itself included: requests come one by one, the children of one item
    together, and their number is Poisson."""
    parent = pipeline.parents[task]
    if parent < 0:
        return 1.0
    return 1.0 + pipeline.fanouts[parent][path[-1]][pipeline.children[parent].index(task)]


def build_network(
    pipeline: Pipeline,
    accuracies: Accuracies,
    configurations: list[Configuration],
    budget_us: int,
    best_only: bool = False,
    merge: bool = False,
) -> Network:
    """The chain form of all ways inside the budget; at least one must exist.

    Leaf states are the remaining budgets that flow can come with, joined by "give up budget" arcs; inner states are (variant
    path, remaining budget rounded down to what makes a difference). best_only: only arcs that can still end in the best
    accuracy. merge: forget the variant path and accuracy, for questions about capacity alone; units are then items, not
    requests.
    """
    return _Builder(pipeline, accuracies, configurations, budget_us, best_only, merge).build()


class _Builder:
    def __init__(
        self,
        pipeline: Pipeline,
        accuracies: Accuracies,
        configurations: list[Configuration],
        budget_us: int,
        best_only: bool,
        merge: bool,
    ) -> None:
        self._pipeline, self._accuracies, self._configurations = pipeline, accuracies, configurations
        self._best_only, self._merge = best_only, merge
        self._tree = Tree(pipeline, configurations)
        self._budget = budget_us
        self._needs = [self._need_list(task) for task in range(len(pipeline.tasks))]
        self._of_task = [
            sorted(
                (k for k, c in enumerate(configurations) if c.task == task),
                key=lambda k: (configurations[k].cost_us, k),
            )
            for task in range(len(pipeline.tasks))
        ]
        self._index: dict[tuple[int, tuple[int, ...], int], int] = {}
        self._states: list[State] = []
        self._arcs: list[Arc] = []

    def build(self) -> Network:
        for entry in self._pipeline.entries:
            self._state(entry, (), self._budget, self._pipeline.tasks[entry].entry, 1.0)
        done = 0
        while done < len(self._states):
            if self._pipeline.children[self._states[done].task]:
                self._inner_arcs(done)
            done += 1
        self._leaf_arcs()
        return Network(tuple(self._configurations), tuple(self._states), tuple(self._arcs))

    def _need_list(self, task: int) -> list[int] | None:
        sums = self._tree.needs(task, self._budget)
        return None if sums is None else sums.tolist()

    def _state(self, task: int, path: tuple[int, ...], remaining: int, weight: float, supply: float = 0.0) -> int:
        needs = self._needs[task]
        if needs is not None:
            remaining = needs[bisect_right(needs, remaining) - 1]
        key = (task, path, remaining)
        if key not in self._index:
            self._index[key] = len(self._states)
            self._states.append(State(task, path, remaining, weight, supply))
        return self._index[key]

    def _inner_arcs(self, number: int) -> None:
        state = self._states[number]
        for k in self._of_task[state.task]:
            self._inner_arc(number, state, k)

    def _inner_arc(self, number: int, state: State, k: int) -> None:
        configuration = self._configurations[k]
        left = state.remaining_us - configuration.cost_us
        children = self._pipeline.children[state.task]
        path = (*state.path, configuration.variant)
        if any(self._tree.fastest(child) > left for child in children):
            return
        if self._best_only and not self._can_be_best(state.task, path):
            return
        into = []
        fanouts = self._pipeline.fanouts[state.task][configuration.variant]
        for child, fanout in zip(children, fanouts, strict=True):
            weight = state.weight * fanout
            if self._merge:
                into.append((self._state(child, (), left, 1.0), weight))
            else:
                into.append((self._state(child, path, left, weight), 1.0))
        self._arcs.append(Arc(number, k, state.weight, self._reserve(state, configuration), 0.0, tuple(into)))

    def _leaf_arcs(self) -> None:
        """Serve with what does not fit the next smaller budget that flow comes with, or step down to it."""
        levels: dict[tuple[int, tuple[int, ...]], list[tuple[int, int]]] = {}
        for number, state in enumerate(self._states):
            if not self._pipeline.children[state.task]:
                levels.setdefault((state.task, state.path), []).append((state.remaining_us, number))
        for found in levels.values():
            lower = None
            for _, number in sorted(found):
                self._leaf_arc(number, lower)
                lower = number

    def _leaf_arc(self, number: int, lower: int | None) -> None:
        state = self._states[number]
        below = -1 if lower is None else self._states[lower].remaining_us
        for k in self._of_task[state.task]:
            configuration = self._configurations[k]
            path = (*state.path, configuration.variant)
            fits = below < configuration.cost_us <= state.remaining_us
            if fits and (not self._best_only or self._can_be_best(state.task, path)):
                reserve, accuracy = self._reserve(state, configuration), self._accuracy(state.task, path)
                self._arcs.append(Arc(number, k, state.weight, reserve, accuracy, ()))
        if lower is not None:
            self._arcs.append(Arc(number, -1, 0.0, 0.0, 0.0, ((lower, 1.0),)))

    def _reserve(self, state: State, configuration: Configuration) -> float:
        """None where the variant path is forgotten: then nobody knows how many items come at once."""
        return 0.0 if self._merge else configuration.reserve * at_once(self._pipeline, state.task, state.path)

    def _can_be_best(self, task: int, path: tuple[int, ...]) -> bool:
        lines = self._pipeline.lines
        depth = len(path)
        return all(
            self._accuracies.reaches_best(leaf, path) for leaf in self._pipeline.leaves if lines[leaf][:depth] == lines[task]
        )

    def _accuracy(self, leaf: int, path: tuple[int, ...]) -> float:
        if self._merge:
            return 0.0
        return self._accuracies.weights[leaf] * float(self._accuracies.tables[leaf][path])
