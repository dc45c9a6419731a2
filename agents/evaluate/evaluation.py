"""Evaluation on windows that training never saw: the base as it is, what rules without a network make of it, and agents,
in the twin that agents are trained in and before the judge."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from msgspec import Struct
from msgspec.structs import asdict, replace

from loki_rl.agents.evaluate.families import cut, generated
from loki_rl.agents.evaluate.guarded_agent import GuardedAgent
from loki_rl.agents.evaluate.judge import BASE, IDEAL, Verdict, played, verdicts
from loki_rl.agents.evaluate.rollouts import Decide, Means, Played, base, greedy, means, play
from loki_rl.agents.evaluate.rules import best_rules, constant
from loki_rl.control.learned.agent import LEARNED, NumpyAgent, open_card
from loki_rl.control.learned.observation import ACTIONS
from loki_rl.env.gym.cluster_options import ClusterEnvOptions, pool_for, table_of
from loki_rl.progress import Progress, Steps, unseen, unseen_steps
from loki_rl.reports.statistics import Interval, gap_closed, mean_gain
from loki_rl.runs.options import RunOptions


class Asked(Struct, frozen=True, kw_only=True):
    """windows: test windows of the fluid twin; validation: windows that rules are chosen on; events: windows of each family
    before the judge, at a mean of `level` [1/s]; traces: families beside the generated ones, whose time is compressed at
    most `compress` times."""

    windows: int = 100
    validation: int = 256
    events: int = 0
    level: float = 131.0
    traces: tuple[str, ...] = ()
    compress: float = 1.0


class Row(Means, frozen=True, kw_only=True):
    """One method on the test windows of the fluid twin. saved: cost J against `exact` on the same windows; share: of the gap
    to the bound that it closes."""

    method: str
    saved: Interval
    share: Interval


class Report(Struct, frozen=True, kw_only=True):
    """fluid: the twin that agents are trained in; events: the judge, empty where not asked for."""

    pipeline: str
    windows: int
    fluid: list[Row]
    events: list[Verdict]


def evaluate(
    options: ClusterEnvOptions,
    agents: Mapping[str, NumpyAgent],
    asked: Asked,
    progress: Steps = unseen_steps,
) -> Report:
    """Rules, agents (by name) and clairvoyance on test windows. progress: is told what is done, and its share."""
    card = open_card(table_of(options).fleet.pipeline.name, options.interval_s)
    rules = best_rules(options, asked.validation, card, partial(progress, "choosing rules"))
    test = replace(options, split="test", windows=asked.windows)
    return Report(
        pipeline=options.pipeline,
        windows=asked.windows,
        fluid=_fluid(test, rules, agents, partial(progress, "fluid twin")),
        events=_events(options, {**rules, **agents}, asked, partial(progress, "event twin")) if asked.events else [],
    )


def _fluid(
    test: ClusterEnvOptions, rules: Mapping[str, NumpyAgent], agents: Mapping[str, NumpyAgent], progress: Progress
) -> list[Row]:
    pool = pool_for(test)
    # The bound plays every constant action.
    methods: dict[str, Decide] = {BASE: base}
    plays = 1 + len(rules) + len(agents) + ACTIONS
    methods |= {name: greedy(one.weights, one.biases, 0.0) for name, one in rules.items()}
    methods |= {name: GuardedAgent(one) for name, one in agents.items()}
    found = {}
    for number, (name, method) in enumerate(methods.items()):
        progress(number / plays)
        found[name] = play(pool, method)
    found["bound"] = bound(test, lambda share: progress(1 - ACTIONS / plays * (1 - share)))
    costs = {name: one.cost_j for name, one in found.items()}
    return [
        Row(
            method=name,
            saved=mean_gain(costs[BASE], costs[name][None]),
            share=gap_closed(costs[BASE], costs[name][None], costs["bound"]),
            **asdict(means(one)),
        )
        for name, one in found.items()
    ]


def bound(options: ClusterEnvOptions, progress: Progress = unseen) -> Played:
    """Of each window the cheapest of all constant actions on what clairvoyance believes, chosen in hindsight."""
    pool, card = pool_for(replace(options, base=IDEAL)), open_card("", options.interval_s)
    constants = [constant(action, card) for action in range(ACTIONS)]
    runs = []
    for one in constants:
        runs.append(play(pool, greedy(one.weights, one.biases, 0.0)))
        progress(len(runs) / ACTIONS)
    best = np.argmin([one.cost_j for one in runs], axis=0)
    return Played(
        **{
            name: np.stack([getattr(one, name) for one in runs])[best, np.arange(len(best))]
            for name in Played.__struct_fields__
        }
    )


def _events(
    options: ClusterEnvOptions, agents: Mapping[str, NumpyAgent], asked: Asked, progress: Progress
) -> list[Verdict]:
    """Every agent as its policy would play it, beside `exact` and `clairvoyant`."""
    of = RunOptions(options.pipeline, servers=options.servers, load_s=options.load_s, calibration=options.calibration)
    traces = {Path(name): asked.compress for name in asked.traces}
    with TemporaryDirectory() as name:
        folder, methods = Path(name), dict[str, tuple[str, str | None]]({BASE: (BASE, None), IDEAL: (IDEAL, None)})
        for place, (method, agent) in enumerate(agents.items()):
            agent.save(folder / f"{place}.npz")
            methods[method] = (LEARNED, str(folder / f"{place}.npz"))
        windows = list(
            chain.from_iterable(
                chain(generated(folder, of, asked.level, number), cut(traces, of, asked.level, number, asked.events))
                for number in range(asked.events)
            )
        )
        runs = []
        for one in played(windows, methods):
            runs.append(one)
            progress(len(runs) / (len(windows) * len(methods)))
        return verdicts(runs)
