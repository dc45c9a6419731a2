"""The actor inside a stable-baselines3 model as plain arrays. Owns that translation alone."""

from __future__ import annotations

from typing import Any

import numpy as np

from loki_rl.control.learned.agent import Layers


def layers_of(model: Any) -> tuple[Layers, Layers]:
    """Weights and biases of the policy network: hidden layers, then the action layer."""
    policy = model.policy
    layers = [layer for layer in policy.mlp_extractor.policy_net if hasattr(layer, "weight")] + [policy.action_net]
    weights = tuple(layer.weight.detach().numpy().T.astype(np.float32).copy() for layer in layers)
    return weights, tuple(layer.bias.detach().numpy().astype(np.float32).copy() for layer in layers)
