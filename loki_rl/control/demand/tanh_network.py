"""A small tanh network in numpy: inference without torch, and its layers in a file. Owns nothing of what it is for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Layers = tuple[Array, ...]


def forward(weights: Layers, biases: Layers, features: Array) -> Array:
    """One row of features or many; the last layer is linear."""
    hidden = features
    for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
        hidden = np.tanh(hidden @ weight + bias)
    found: Array = hidden @ weights[-1] + biases[-1]
    return found


def named(weights: Layers, biases: Layers) -> dict[str, Array]:
    """The arrays of a file: w0, b0, w1, ..."""
    return {f"w{i}": w for i, w in enumerate(weights)} | {f"b{i}": b for i, b in enumerate(biases)}


def layers_in(file: Any, kind: type[np.floating[Any]]) -> tuple[Layers, Layers]:
    """Weights and biases of a file as `np.load` opens it. Raises KeyError if one is missing."""
    depth = range(sum(name.startswith("w") for name in file.files))
    return tuple(file[f"w{i}"].astype(kind) for i in depth), tuple(file[f"b{i}"].astype(kind) for i in depth)


def layers_of(modules: Sequence[Any], kind: type[np.floating[Any]]) -> tuple[Layers, Layers]:
    """Weights and biases of torch's linear layers among these modules."""
    linear = [module for module in modules if hasattr(module, "weight")]
    weights = tuple(module.weight.detach().numpy().T.astype(kind).copy() for module in linear)
    return weights, tuple(module.bias.detach().numpy().astype(kind).copy() for module in linear)
