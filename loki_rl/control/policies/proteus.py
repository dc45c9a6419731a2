"""Accuracy scaling of every task on its own, as Proteus (ASPLOS'24): which variant each server hosts, given only what comes
to each task's queue. Owns that model and its plans; must not know which task feeds which."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import prod
from time import perf_counter

from msgspec import Struct
from msgspec.structs import replace

from loki_rl.control.demand.estimators import FLOOR_RPS, ewma
from loki_rl.control.formulation.latency import HalfSlo, depths
from loki_rl.control.formulation.model import add_row, new_problem, set_objective
from loki_rl.control.formulation.request import RequestError
from loki_rl.control.policies.options import PolicyOptions
from loki_rl.control.policies.planner import Planner
from loki_rl.control.solver.pulp_highs import solve_written
from loki_rl.control.solver.solve import Solved
from loki_rl.core.pipeline import Pipeline
from loki_rl.core.plan import Certificate, Placement, Plan, Snapshot

# Of one question that the other misses by so much.
TOLERANCE = 1e-6
NOTHING = 1e-9


class Host(Struct, frozen=True):
    """A variant at the batch it would run with: the largest whose median fits half of the task's share of the SLO. placed:
    on no server yet; rate [items/s]."""

    task: int
    placed: Placement
    rate: float
    accuracy: float


class Answer(Struct):
    """Per host: servers, and items served [1/s]."""

    servers: list[int]
    served: list[float]
    solved: Solved
    seconds: float


class Proteus:
    """Proteus (ASPLOS'24, section 4; its artifact's MILP): every server hosts one variant; of the demand of all tasks
    together as much as can be is served, most accurately on average over their items.

    What Loki's evaluation had to interpret too: a task is an application of its own, with its own smoothed count of items
    and an equal share of the SLO along its longest path; nobody tells a detector's variant from the crops it makes. The
    artifact lowers the served share in steps until its MILP has a solution, here it is the largest. It has no hardware
    scaling: servers without use in the solution repeat the busiest variants. Smoothing, headroom and queueing allowance are
    those of `loki`.
    """

    def __init__(self, pipeline: Pipeline, options: PolicyOptions) -> None:
        if options.queueing == "tail":
            raise RequestError("policy 'proteus' gives every stage half of its share of the SLO; leave --queueing out")
        tasks = len(pipeline.tasks)
        if options.servers < tasks:
            raise RequestError(f"policy 'proteus' needs a server for every task: {tasks}, not {options.servers}")
        self._planner = Planner(pipeline, options, "half-slo", 0.05)
        self._options = options
        self._depths = depths(pipeline)
        self._measure(pipeline)

    def _measure(self, pipeline: Pipeline) -> None:
        """Plan with these figures, profiled or measured."""
        self._pipeline = pipeline
        self._hosts = _hosts(pipeline, self._options.slo_s or pipeline.slo_s, self._depths)

    def decide(self, snapshot: Snapshot) -> Plan:
        if self._planner.learn(snapshot):
            self._measure(self._planner.pipeline)
        root_rps = max(self._planner.estimate(snapshot.arrivals, ewma), FLOOR_RPS)
        demand = [self._demand(snapshot, task) for task in range(len(self._pipeline.tasks))]
        headroom = 1 + self._planner.request(root_rps).headroom
        answer = self._ask([headroom * rps for rps in demand])
        self._fill(answer)
        return self._plan(answer, root_rps, demand, headroom)

    def _demand(self, snapshot: Snapshot, task: int) -> float:
        """Items of a task [1/s]; before any was counted, what the expected requests come to with the best models."""
        counted = snapshot.items.get(self._pipeline.tasks[task].name)
        unknown = self._options.expected_rps * expected_items(self._pipeline, task)
        return max(ewma(counted) if counted else unknown, FLOOR_RPS)

    # -- the MILP -----------------------------------------------------------------------------------------------------

    def _ask(self, demand: Sequence[float]) -> Answer:
        """The largest share of all items first, then the best accuracy at that share."""
        began = perf_counter()
        most = _Model(self._hosts, demand, self._options)
        most.aim_at(served=1.0)
        share = most.solve(self._options.time_limit_s / 2).objective
        best = _Model(self._hosts, demand, self._options)
        best.aim_at(accuracy=1.0, least=share - TOLERANCE)
        solved = best.solve(self._options.time_limit_s / 2)
        if not solved.found:
            return Answer(*_spread(self._hosts, demand, self._options.servers), solved, perf_counter() - began)
        servers = [round(solved.values[column.name]) for column in best.servers]
        served = [sum(demand) * solved.values[column.name] for column in best.served]
        return Answer(servers, served, solved, perf_counter() - began)

    def _fill(self, answer: Answer) -> None:
        """Servers that the solution leaves out repeat the variant that is busiest per server."""
        while sum(answer.servers) < self._options.servers:
            loads = [
                rps / (host.rate * count) if count else -1.0
                for host, count, rps in zip(self._hosts, answer.servers, answer.served, strict=True)
            ]
            answer.servers[max(range(len(loads)), key=loads.__getitem__)] += 1

    # -- the plan -----------------------------------------------------------------------------------------------------

    def _plan(self, answer: Answer, root_rps: float, demand: Sequence[float], headroom: float) -> Plan:
        pipeline = self._pipeline
        used = [row for row in zip(self._hosts, answer.servers, answer.served, strict=True) if row[1]]
        flows: dict[str, dict[str, float]] = {}
        capacity, served, means, best = [], [], [], True
        for task, stage in enumerate(pipeline.tasks):
            # Where nothing of a task is served it still needs shares for what comes.
            mine = [(host, count, max(rps, NOTHING)) for host, count, rps in used if host.task == task]
            capacity.append(sum(count * host.rate for host, count, _ in mine))
            served.append(sum(rps for _, _, rps in mine))
            means.append(sum(rps * host.accuracy for host, _, rps in mine) / served[task])
            flows[stage.name] = {host.placed.variant: rps / served[task] for host, _, rps in mine}
            best &= means[task] > max(host.accuracy for host in self._hosts if host.task == task) - TOLERANCE
        share = min(1.0, min(rps / (headroom * want) for rps, want in zip(served, demand, strict=True)) + TOLERANCE)
        lines = {pipeline.tasks[leaf].name: pipeline.lines[leaf] for leaf in pipeline.leaves}
        return Plan(
            mode="shed" if share < 1 else "hardware" if best else "accuracy",
            placements=tuple(replace(host.placed, replicas=count) for host, count, _ in used),
            servers=sum(answer.servers),
            accuracy=sum(pipeline.leaf_weights[leaf] * prod(means[task] for task in line) for leaf, line in lines.items()),
            served_fraction=share,
            demand_rps=root_rps,
            capacity_rps=root_rps * min(have / want for have, want in zip(capacity, demand, strict=True)),
            split={stage.name: len(pipeline.lines[t]) / self._depths[t] for t, stage in enumerate(pipeline.tasks)},
            flows=flows,
            certificate=_certificate(answer),
        )


class _Model:
    """Whole servers per host, and what each serves as a share of all items."""

    def __init__(self, hosts: Sequence[Host], demand: Sequence[float], options: PolicyOptions) -> None:
        self.hosts, self.floor = hosts, options.min_accuracy
        self.problem = new_problem(maximise=True)
        self.servers = [self.problem.add_variable(f"n{k:03d}", 0, options.servers, "Integer") for k in range(len(hosts))]
        self.served = [self.problem.add_variable(f"y{k:03d}", 0) for k in range(len(hosts))]
        everything = sum(demand)
        for host, count, share in zip(hosts, self.servers, self.served, strict=True):
            add_row(self.problem, [(share, everything / host.rate), (count, -1.0)], "<=", 0)
        add_row(self.problem, [(count, 1.0) for count in self.servers], "<=", options.servers)
        for task, rps in enumerate(demand):
            mine = [k for k, host in enumerate(hosts) if host.task == task]
            add_row(self.problem, [(self.served[k], 1.0) for k in mine], "<=", rps / everything)
            add_row(self.problem, [(self.servers[k], 1.0) for k in mine], ">=", 1)

    def aim_at(self, served: float = 0.0, accuracy: float = 0.0, least: float = 0.0) -> None:
        """Weights of what is maximised; least: share of the items that must be served."""
        add_row(self.problem, [(share, 1.0) for share in self.served], ">=", least)
        floor = [(share, host.accuracy - self.floor) for host, share in zip(self.hosts, self.served, strict=True)]
        add_row(self.problem, floor, ">=", 0)
        terms = [(share, served + accuracy * host.accuracy) for host, share in zip(self.hosts, self.served, strict=True)]
        set_objective(self.problem, terms)

    def solve(self, time_limit_s: float) -> Solved:
        return solve_written(self.problem, time_limit_s)


def expected_items(pipeline: Pipeline, task: int) -> float:
    """Items of a task per request, if the most accurate variants serve it."""
    line = pipeline.lines[task]
    items = pipeline.tasks[line[0]].entry
    for above, below in pairwise(line):
        items *= pipeline.fanouts[above][pipeline.most_accurate[above]][pipeline.children[above].index(below)]
    return items


def _hosts(pipeline: Pipeline, slo_s: float, longest: Sequence[int]) -> list[Host]:
    model = HalfSlo(pipeline, slo_s)
    found = []
    for task, stage in enumerate(pipeline.tasks):
        budget_us = model.budget_us / longest[task]
        fitting = [_largest(model, pipeline, task, variant, budget_us) for variant in range(len(stage.variants))]
        # A task in which nothing fits its share of the SLO still must be served.
        if not any(fitting):
            able = [variant for variant, one in enumerate(stage.variants) if one.runnable]
            fitting[min(able, key=lambda variant, task=task: model.cost_us(task, variant, 1))] = 1  # type: ignore[misc]
        found += [
            Host(
                task,
                Placement(stage.name, stage.variants[variant].name, batch, 0),
                model.rate(task, variant, batch),
                stage.variants[variant].accuracy,
            )
            for variant, batch in enumerate(fitting)
            if batch
        ]
    return found


def _largest(model: HalfSlo, pipeline: Pipeline, task: int, variant: int, budget_us: float) -> int:
    """The largest batch whose median fits the budget, 0 if none does or the variant does not run."""
    found = pipeline.tasks[task].variants[variant]
    fitting = (batch for batch in found.latency if model.cost_us(task, variant, batch) <= budget_us)
    return max(fitting, default=0) if found.runnable else 0


def _spread(hosts: Sequence[Host], demand: Sequence[float], servers: int) -> tuple[list[int], list[float]]:
    """Without a solution in time: the fastest variants, a server for every task; the rest goes where it is busiest."""
    counts, served = [0] * len(hosts), [0.0] * len(hosts)
    for task, rps in enumerate(demand):
        fastest = max((k for k, host in enumerate(hosts) if host.task == task), key=lambda k: hosts[k].rate)
        counts[fastest], served[fastest] = 1, rps
    assert sum(counts) <= servers
    return counts, served


def _certificate(answer: Answer) -> Certificate:
    """Of the second question."""
    solved = answer.solved
    gap = abs(solved.bound - solved.objective) / max(abs(solved.objective), 1e-9)
    solve_ms = 1000 * solved.seconds
    build_ms = 1000 * answer.seconds - solve_ms
    return Certificate(solved.objective, solved.bound, gap, solved.status, solved.solver, build_ms, solve_ms)
