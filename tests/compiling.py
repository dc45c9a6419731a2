"""`python -m tests.compiling`: compiles what many tests need, before they run side by side and each would compile it."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import gymnasium as gym

import loki_rl.env
from loki_rl.control.allocator.implicit_model import warm
from loki_rl.control.learned.observation import NO_ADJUSTMENT


def play() -> None:
    """A decision of the fluid twin."""
    loki_rl.env.register_envs()
    env = gym.make("LokiRL/OneTask-v1", intervals=6, windows=3)
    env.reset(seed=0)
    env.step(NO_ADJUSTMENT)
    env.close()


def main() -> None:
    """The solver and the fluid twin, which share nothing that is compiled: each in a process of its own."""
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as processes:
        for done in [processes.submit(one) for one in (warm, play)]:
            done.result()


if __name__ == "__main__":
    main()
