"""What an agent made up for a test says of itself."""

from __future__ import annotations

from loki_rl.control.learned.agent import MASK_RULE, Card
from loki_rl.control.learned.observation import MULTIPLIERS, OBSERVATION, PATIENCES


def made_up(
    pipeline: str, low: float = -9.0, high: float = 9.0, forecast_error: float = 0.05, interval_s: float = 10.0
) -> Card:
    return Card(
        environment="LokiRL/Cluster-v0", pipeline=pipeline, features=tuple(f"f{i}" for i in range(OBSERVATION)),
        multipliers=tuple(MULTIPLIERS.tolist()), patiences=tuple(PATIENCES.tolist()), mask_rule=MASK_RULE, scale=1.0,
        patience=1.0, low=(low,) * OBSERVATION, high=(high,) * OBSERVATION, forecast_error=forecast_error, ranges={},
        gain=0.0, gap=0.0, steps=0, violations=0.0, excess=0.0, training={"env": {"interval_s": interval_s}}, note="made up",
    )  # fmt: skip
