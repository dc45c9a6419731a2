"""Prints a digest of everything that happens in a short run of the twin with the real allocator."""

from __future__ import annotations

import sys
from hashlib import sha256

from msgspec.structs import replace

from loki_rl.control.policies.named import make_policy
from loki_rl.core.effects import Effect
from loki_rl.core.messages import Event, encoder
from loki_rl.core.plan import Certificate, Plan, Snapshot
from loki_rl.env.simulate import simulate
from loki_rl.runs.options import RunOptions
from loki_rl.runs.run import prepare


def digest() -> str:
    """Of every event and effect; solving times are the only thing left out."""
    scene = prepare(RunOptions("traffic", "flash_crowd", "exact", to_s=12.0, interval_s=4.0, mean_rps=150.0, seed=11))
    # A solver cut short by the clock answers as fast as the machine is.
    policy = make_policy("exact", scene.pipeline, replace(scene.policy, time_limit_s=100.0))
    found = sha256()

    def decide(snapshot: Snapshot) -> Plan:
        return replace(policy.decide(snapshot), certificate=Certificate())

    def record(address: str, now: float, event: Event, effects: list[Effect]) -> None:
        found.update(encoder.encode((address, now, event, effects)))

    simulate(scene.cluster, decide, scene.times, scene.duration_s, record=record)
    return found.hexdigest()


if __name__ == "__main__":
    sys.stdout.write(digest())
