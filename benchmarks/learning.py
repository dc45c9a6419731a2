"""The goals of learning: speed of environments and training, the training allocator against the exact one, agreement and
speed of exported agents, fluid against event twin. Prints each figure beside its goal; asserts nothing."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from statistics import median

import gymnasium as gym
import numpy as np
from msgspec.structs import replace

import loki_rl.env
from loki_rl.control.allocator.allocate import allocate
from loki_rl.control.allocator.switching import SERVERS as SERVER_J
from loki_rl.control.allocator.switching import SWITCH_GAP, question_of
from loki_rl.control.allocator.transition import Transition
from loki_rl.control.allocator.written_transition import Model
from loki_rl.control.fast.model_arrays import Floats
from loki_rl.control.fast.table import Table, build_table
from loki_rl.control.formulation.prepared import prepare
from loki_rl.control.formulation.request import Request
from loki_rl.control.learned.agent import act, load_agent
from loki_rl.control.learned.observation import ACTIONS, NO_ADJUSTMENT, OBSERVATION
from loki_rl.env.gym.cluster_env import ClusterEnv
from loki_rl.env.gym.cluster_options import ClusterEnvOptions
from loki_rl.files.config import load_pipeline
from tests.control.states import answered, counts_of, names, random_request

SINGLE = {"LokiRL/OneTask-v1": 50_000, "LokiRL/Cluster-v1": 10_000}
BATCHED = {"LokiRL/OneTask-v1": 300_000, "LokiRL/Cluster-v1": 100_000}
CLUSTERS = 256
CORES = len(os.sched_getaffinity(0))
STEPS = 120  # of an episode
SERVERS = 20
# Who is played in both twins: bases with constant actions.
FIDELITY_STEPS = 30
FIDELITY = (("exact", NO_ADJUSTMENT), ("exact", 1), ("exact", NO_ADJUSTMENT + 2), ("clairvoyant", NO_ADJUSTMENT))
DECISIONS = 100_000
STATES = 2000
# The exact allocator stops within this of the best cost J: two plans closer than that are equally good to it.
TOLERANCE_J = 6 * SWITCH_GAP
NEAR_J = SERVER_J / SERVERS


def row(name: str, value: str, goal: str) -> None:
    print(f"{name:58} {value:>28}   goal {goal}", flush=True)


def per_second(run: Callable[[], int], times: int, clock: Callable[[], float] = time.process_time) -> float:
    """Median over runs of steps per second: of processor time in one thread, of the clock in several."""
    rates = []
    for _ in range(times):
        began = clock()
        rates.append(run() / (clock() - began))
    return median(rates)


def speed(times: int) -> None:
    """Steps per second, no adjustment and legal random actions."""
    for name, goal in SINGLE.items():
        env = gym.make(name, windows=4)
        rng = Random(0)  # numpy's draw takes as long as the step

        def single(env: gym.Env = env, rng: Random = rng, wander: bool = False) -> int:
            info = env.reset(seed=1)[1]
            for _ in range(STEPS):
                legal = np.flatnonzero(info["action_mask"]).tolist() if wander else [NO_ADJUSTMENT]
                info = env.step(rng.choice(legal))[-1]
            return STEPS

        single()
        row(f"{name}, steps/s, asked before", f"{per_second(single, times):,.0f}", f"{goal:,}")
        row(f"{name}, steps/s, random actions", f"{per_second(lambda f=single: f(wander=True), times):,.0f}", f"{goal:,}")  # type: ignore[misc]
    for name, goal in BATCHED.items():
        batch = gym.make_vec(name, num_envs=CLUSTERS, windows=16)
        actions = np.full(CLUSTERS, NO_ADJUSTMENT)

        def batched(batch: gym.vector.VectorEnv = batch, actions: np.ndarray = actions) -> int:
            batch.reset(seed=1)
            for _ in range(STEPS):
                batch.step(actions)
            return STEPS * CLUSTERS

        batched()
        rate = per_second(batched, times, time.perf_counter)
        row(f"{name} x {CLUSTERS}, {CORES} cores, steps/s of the clock, asked before", f"{rate:,.0f}", f"{goal:,}")


def cost_of(table: Table, request: Request, counts: Floats) -> float:
    """Cost J in the exact allocator's own model, with the servers per variant fixed."""
    setting = prepare(table.fleet.pipeline, request)
    pipeline, wanted = setting.pipeline, dict[Model, int]()
    for (task, variant), count in zip(names(table), counts, strict=True):
        if count:
            place = pipeline.index[task]
            wanted[place, pipeline.variant_index[place][variant], 0] = int(count)
    question = question_of(request, setting)
    solved = Transition(setting, len(question.slices)).ask(question, 20.0, 1e-6, wanted)
    likely = sum(part * chance for part, chance in zip(question.slices, question.chances, strict=True))
    everything = likely * (question.worth[0] + question.worth[1] + question.worth[2] * pipeline.best_accuracy)
    return everything - (solved.objective if solved.found else 0.0)


def allocator(states: int) -> None:
    """The training allocator against the exact one, both judged by the exact one's model."""
    for name in ("traffic", "social"):
        pipeline = load_pipeline(name).pipeline
        table, rng = build_table(pipeline, SERVERS), np.random.default_rng(3)
        same, near = {False: 0, True: 0}, {False: 0, True: 0}
        excess, total = {False: 0.0, True: 0.0}, 0.0
        for _ in range(states):
            request = random_request(table, SERVERS, rng)
            exact = cost_of(table, request, counts_of(table, allocate(pipeline, replace(request, time_limit_s=10.0))))
            total += exact
            for deep in (False, True):
                found = cost_of(table, request, answered(table, request, deep))
                same[deep] += found <= exact + TOLERANCE_J
                near[deep] += found <= exact + NEAR_J
                excess[deep] += max(0.0, found - exact)
        for deep, word in ((True, "thorough"), (False, "quick")):
            row(f"{name}: {word} search, agreement on {states} states", f"{100 * same[deep] / states:.1f} %", ">= 93 %")
            row(f"{name}: {word} search, within a server's cost", f"{100 * near[deep] / states:.1f} %", "no goal")
            row(f"{name}: {word} search, mean excess cost", f"{100 * excess[deep] / total:.2f} %", "<= 0.5 %")


def training(pipeline: str, goal: int) -> None:
    """Decisions per second of PPO, network and allocator in the loop, and of the teacher's judging."""
    from loki_rl.agents.evaluate.counterfactuals import Judging, judged
    from loki_rl.agents.evaluate.rollouts import base
    from loki_rl.agents.train.fine_tuning import TrainOptions, new_model
    from loki_rl.agents.train.regression import settle_torch
    from loki_rl.agents.train.teacher import TeachOptions
    from loki_rl.agents.train.vec_env import ClusterVecEnv
    from loki_rl.env.gym.cluster_options import pool_for

    options = TrainOptions(teach=TeachOptions(env=ClusterEnvOptions(pipeline=pipeline, windows=64)))
    settle_torch(0)
    pool = pool_for(options.teach.env)
    began = time.process_time()
    pool.ensure(np.arange(pool.size))
    row(f"{pipeline}: a window made", f"{1000 * (time.process_time() - began) / pool.size:.0f} ms", "once each")
    model = new_model(options, ClusterVecEnv([pool], options.envs, options.rewards, 0.0, 0))
    model.learn(options.envs * options.rollout)
    began, before = time.perf_counter(), model.num_timesteps
    model.learn(DECISIONS, reset_num_timesteps=False)
    rate = (model.num_timesteps - before) / (time.perf_counter() - began)
    row(f"{pipeline}: training, {CORES} cores, decisions/s of the clock, windows known", f"{rate:,.0f}", f"{goal:,}")
    judged(pool, base, Judging(), 1, 0)
    began = time.perf_counter()
    states = len(judged(pool, base, Judging(), STATES, 1).k)
    row(f"{pipeline}: states judged a second", f"{states / (time.perf_counter() - began):,.0f}", "8,000 in 200 s")


def trainings() -> None:
    training("one-task", 25_000)
    training("traffic", 20_000)


def exported(file: Path) -> None:
    """The forms of an agent against each other, and against the model that it was made from, where that lies beside it."""
    agents = {suffix: load_agent(file.with_suffix(f".{suffix}")) for suffix in ("npz", "onnx")}
    rng = np.random.default_rng(0)
    pairs = [(rng.uniform(-2, 2, OBSERVATION).astype(np.float32), rng.random(ACTIONS) < 0.6) for _ in range(10_000)]
    for _, mask in pairs:
        mask[NO_ADJUSTMENT] = True
    chosen = {}
    for suffix, agent in agents.items():
        began = time.process_time()
        chosen[suffix] = [act(agent, *pair) for pair in pairs]
        row(f"{suffix}: decision", f"{1e6 * (time.process_time() - began) / len(pairs):.0f} us", "< 100 us")
    same = np.mean(np.array(chosen["npz"]) == np.array(chosen["onnx"]))
    row("npz and onnx choose the same of 10,000", f"{100 * same:.2f} %", "100 %")
    if (file.parent / "best.zip").is_file():
        from sb3_contrib import MaskablePPO

        from tests.agents.agreement import agreement, of_model

        model = MaskablePPO.load(file.parent / "best.zip", device="cpu")
        for suffix, agent in agents.items():
            same = agreement(agent, of_model(model), 10_000)
            row(f"{suffix} and sb3 choose the same of 10,000", f"{100 * same:.2f} %", "100 %")


def legal(env: ClusterEnv, action: int) -> int:
    return action if env.action_masks()[action] else NO_ADJUSTMENT


def fidelity(windows: int) -> None:
    """The same windows and targets in both twins."""
    for base, action in FIDELITY:
        seen: dict[str, list[tuple[float, ...]]] = {"fluid": [], "event": []}
        for kind in seen:
            env = ClusterEnv(fidelity=kind, split="test", windows=windows, intervals=FIDELITY_STEPS, base=base)
            for number in range(windows):
                env.reset(seed=0, options={"window": number})
                rows = [env.step(legal(env, action))[-1] for _ in range(FIDELITY_STEPS)]
                lost = sum(r["slo_violation_ratio"] * r["arrivals"] for r in rows) / sum(r["arrivals"] for r in rows)
                quality = float(np.mean([r["accuracy"] for r in rows]))
                cost = (
                    5 * lost
                    + (1 - quality / env.pool.table.fleet.net.best)
                    + 0.1 * np.mean([r["servers"] for r in rows]) / SERVERS
                )
                seen[kind].append((lost, float(cost), quality))
        values = {kind: np.mean(found, axis=0) for kind, found in seen.items()}
        gap = abs(values["fluid"][0] - values["event"][0])
        row(
            f"{base}, {action}: violations fluid / event",
            f"{100 * values['fluid'][0]:.2f} / {100 * values['event'][0]:.2f} %",
            f"within 1 point ({100 * gap:.2f})",
        )
        row(f"{base}, {action}: cost J fluid / event", f"{values['fluid'][1]:.4f} / {values['event'][1]:.4f}", "same order")
        row(f"{base}, {action}: accuracy fluid / event", f"{values['fluid'][2]:.4f} / {values['event'][2]:.4f}", "no goal")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=["speed", "allocator", "training", "exported", "fidelity"], help="one part")
    parser.add_argument("--states", type=int, default=2000, help="random states for the allocator")
    parser.add_argument("--windows", type=int, default=4, help="windows for fidelity")
    parser.add_argument("--runs", type=int, default=5, help="runs a speed is the median of")
    parser.add_argument("--agent", type=Path, help="file of an exported agent, for part exported")
    asked = parser.parse_args()
    loki_rl.env.register_envs()
    parts: dict[str, Callable[[], None]] = {
        "speed": lambda: speed(asked.runs),
        "allocator": lambda: allocator(asked.states),
        "training": trainings,
        "fidelity": lambda: fidelity(asked.windows),
    }
    if asked.agent:
        parts["exported"] = lambda: exported(asked.agent)
    for name, part in parts.items():
        if asked.only in (None, name):
            part()


if __name__ == "__main__":
    main()
