"""From states and what actions would have saved there to an ensemble of networks that says it of any state."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from loki_rl.agents.evaluate.counterfactuals import Examples
from loki_rl.control.demand.tanh_network import Layers
from loki_rl.control.learned.observation import ACTIONS, NO_ADJUSTMENT

# A feature that varies less tells nothing.
CONSTANT = 1e-3


class FitOptions(Struct, frozen=True, kw_only=True):
    """members: networks; each sees the windows as often as a bootstrap draws them. hidden: units of each of both hidden
    layers. bounds: of what an action saves [J], as a few collapsed clusters would drown all others. The rest is Adam's."""

    members: int = 4
    hidden: int = 64
    bounds: tuple[float, float] = (-4.0, 2.0)
    epochs: int = 30
    batch_size: int = 512
    learning_rate: float = 2e-3
    weight_decay: float = 1e-4


def settle_torch(seed: int) -> None:
    """One thread, no checks of distributions, one seed for all."""
    import torch

    torch.set_num_threads(1)  # networks this small are slower on two
    torch.distributions.Distribution.set_default_validate_args(False)
    torch.manual_seed(seed)


def fit(examples: Examples, options: FitOptions, seed: int) -> tuple[Layers, Layers]:
    """Weights and biases of one network whose outputs are those of all members, [members x ACTIONS]: what each action saves
    [J], exactly nothing for "no adjustment"."""
    import torch

    settle_torch(seed)
    shift = examples.observations.mean(axis=0)
    spread = _spread(examples.observations)
    wanted = np.clip(np.nan_to_num(examples.saved), *options.bounds)
    scale = float(wanted.std()) + 1e-9
    x, y = torch.tensor((examples.observations - shift) / spread), torch.tensor(wanted / scale)
    weight = torch.tensor(_drawn(examples, options.members, seed))
    layers = [_layer(torch, options.members, *size) for size in _sizes(x.shape[1], options)]
    optimiser = torch.optim.AdamW(
        [part for layer in layers for part in layer], lr=options.learning_rate, weight_decay=options.weight_decay
    )
    batches = -(-len(x) // options.batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, options.epochs * batches)
    for _ in range(options.epochs):
        for chosen in torch.split(torch.randperm(len(x)), options.batch_size):
            optimiser.zero_grad()
            error = (_forward(torch, layers, x[chosen]) - y[chosen]) ** 2
            (error * weight[:, chosen]).mean().backward()
            optimiser.step()
            schedule.step()
    arrays = [(weight.detach().numpy(), bias.detach().numpy()) for weight, bias in layers]
    return merged(arrays, shift, spread, scale)


def _spread(observations: NDArray[np.float32]) -> NDArray[np.float32]:
    """Of each feature; without bound for one that never varied, so that nothing is made of it where it does."""
    spread = observations.std(axis=0)
    found: NDArray[np.float32] = np.where(spread > CONSTANT, spread, np.inf).astype(np.float32)
    return found


def _sizes(features: int, options: FitOptions) -> tuple[tuple[int, int], ...]:
    return (features, options.hidden), (options.hidden, options.hidden), (options.hidden, ACTIONS)


def _drawn(examples: Examples, members: int, seed: int) -> NDArray[np.float32]:
    """[members, n, ACTIONS] how much an example counts: how often its window was drawn, where the action was played."""
    rng = np.random.default_rng(seed)
    played = ~np.isnan(examples.saved)
    played[:, NO_ADJUSTMENT] = False
    times = rng.poisson(1.0, (members, int(examples.window.max()) + 1))[:, examples.window]
    return (times[:, :, None] * played).astype(np.float32)


def _layer(torch: Any, members: int, inputs: int, outputs: int) -> tuple[Any, Any]:
    weight = torch.randn(members, inputs, outputs) / inputs**0.5
    return weight.requires_grad_(), torch.zeros(members, 1, outputs, requires_grad=True)


def _forward(torch: Any, layers: list[tuple[Any, Any]], x: Any) -> Any:
    """[members, n, ACTIONS]"""
    for weight, bias in layers[:-1]:
        x = torch.tanh(x @ weight + bias)
    weight, bias = layers[-1]
    return x @ weight + bias


def merged(
    layers: Sequence[tuple[NDArray[Any], NDArray[Any]]], shift: NDArray[Any], spread: NDArray[Any], scale: float
) -> tuple[Layers, Layers]:
    """The members side by side in one network for observations as they are. layers: weights [members, in, out] and biases
    [members, 1, out] for observations less `shift` over `spread`, of what is saved over `scale`."""
    (first, bias), middle, (last, end) = layers[0], layers[1:-1], layers[-1]
    last, end = last.copy(), end.copy()
    last[:, :, NO_ADJUSTMENT], end[:, :, NO_ADJUSTMENT] = 0.0, 0.0
    inner = first / spread[None, :, None]
    blocks = [_diagonal(one) for one, _ in middle] + [_diagonal(last * scale)]
    weights = (np.concatenate(list(inner), axis=1), *blocks)
    biases = (bias - np.einsum("i,mio->mo", shift, inner)[:, None], *(one for _, one in middle), end * scale)
    return tuple(w.astype(np.float32) for w in weights), tuple(b.astype(np.float32).ravel() for b in biases)


def _diagonal(blocks: NDArray[Any]) -> NDArray[Any]:
    """[members, in, out] -> [members x in, members x out]"""
    members, inputs, outputs = blocks.shape
    found = np.zeros((members, inputs, members, outputs))
    found[np.arange(members), :, np.arange(members)] = blocks
    return found.reshape(members * inputs, members * outputs)
