"""From states and what actions would have saved there to an ensemble of networks that says it of any state."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from loki_rl.agents.evaluate.counterfactuals import Examples
from loki_rl.control.demand.tanh_network import Layers
from loki_rl.control.learned.observation import NO_ADJUSTMENT

# A feature that varies less tells nothing.
CONSTANT = 1e-3
# What actions do that matter less is as nothing [J].
LEAST_J = 0.01


class FitOptions(Struct, frozen=True, kw_only=True):
    """members: networks; each sees the windows as often as a bootstrap draws them. hidden: units of each of both hidden
    layers. bounds: of what an action saves, in units of what is usual in such a state. The rest is Adam's."""

    members: int = 4
    hidden: int = 64
    bounds: tuple[float, float] = (-8.0, 8.0)
    epochs: int = 15
    batch_size: int = 512
    learning_rate: float = 2e-3
    weight_decay: float = 1e-3


def settle_torch(seed: int) -> None:
    """One thread, no checks of distributions, one seed for all."""
    import torch

    torch.set_num_threads(1)  # networks this small are slower on two
    torch.distributions.Distribution.set_default_validate_args(False)
    torch.manual_seed(seed)


def fit(examples: Examples, options: FitOptions, seed: int) -> tuple[Layers, Layers]:
    """Weights and biases of one network whose outputs are those of all members, [members x ACTIONS]: what each action saves,
    in units of how much actions matter in such a state, exactly nothing for "no adjustment".

    Where a cluster is overloaded actions matter a hundred times as much as in calm, by chance most of it: without these
    units such states would drown all others.
    """
    import torch

    settle_torch(seed)
    shift, spread = examples.observations.mean(axis=0), _spread(examples.observations)
    x = torch.tensor((examples.observations - shift) / spread)
    times, played = _drawn(examples, options.members, seed), _played(examples)
    saved = np.where(played, examples.saved, 0.0)
    matter = np.log(np.abs(saved).sum(axis=1) / np.maximum(1, played.sum(axis=1)) + LEAST_J)[:, None]
    usual = _trained(torch, x, matter, times, options)
    units = np.exp(_forward(torch, usual, x).detach().numpy().mean(axis=0))
    layers = _trained(torch, x, np.clip(saved / units, *options.bounds), times * played, options)
    return merged([(weight.detach().numpy(), bias.detach().numpy()) for weight, bias in layers], shift, spread)


def _trained(torch: Any, x: Any, wanted: NDArray[Any], weight: NDArray[Any], options: FitOptions) -> list[tuple[Any, Any]]:
    """Layers [members, ...] of least weighted square error. wanted [n, outputs]; weight [members, n, outputs or 1]."""
    y, counts = torch.tensor(wanted.astype(np.float32)), torch.tensor(weight.astype(np.float32))
    layers = [_layer(torch, options.members, *size) for size in _sizes(x.shape[1], y.shape[1], options)]
    optimiser = torch.optim.AdamW(
        [part for layer in layers for part in layer], lr=options.learning_rate, weight_decay=options.weight_decay
    )
    batches = -(-len(x) // options.batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, options.epochs * batches)
    for _ in range(options.epochs):
        for chosen in torch.split(torch.randperm(len(x)), options.batch_size):
            optimiser.zero_grad()
            error = (_forward(torch, layers, x[chosen]) - y[chosen]) ** 2
            (error * counts[:, chosen]).mean().backward()
            optimiser.step()
            schedule.step()
    return layers


def _spread(observations: NDArray[np.float32]) -> NDArray[np.float32]:
    """Of each feature; without bound for one that never varied, so that nothing is made of it where it does."""
    spread = observations.std(axis=0)
    found: NDArray[np.float32] = np.where(spread > CONSTANT, spread, np.inf).astype(np.float32)
    return found


def _sizes(features: int, outputs: int, options: FitOptions) -> tuple[tuple[int, int], ...]:
    return (features, options.hidden), (options.hidden, options.hidden), (options.hidden, outputs)


def _played(examples: Examples) -> NDArray[np.bool_]:
    """[n, ACTIONS] whether it is known what an action saved, and not by definition."""
    played: NDArray[np.bool_] = ~np.isnan(examples.saved)
    played[:, NO_ADJUSTMENT] = False
    return played


def _drawn(examples: Examples, members: int, seed: int) -> NDArray[np.int64]:
    """[members, n, 1] how often a bootstrap draws the window of each state."""
    times = np.random.default_rng(seed).poisson(1.0, (members, int(examples.window.max()) + 1))
    found: NDArray[np.int64] = times[:, examples.window, None]
    return found


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
    layers: Sequence[tuple[NDArray[Any], NDArray[Any]]], shift: NDArray[Any], spread: NDArray[Any]
) -> tuple[Layers, Layers]:
    """The members side by side in one network for observations as they are. layers: weights [members, in, out] and biases
    [members, 1, out] for observations less `shift` over `spread`."""
    (first, bias), middle, (last, end) = layers[0], layers[1:-1], layers[-1]
    last, end = last.copy(), end.copy()
    last[:, :, NO_ADJUSTMENT], end[:, :, NO_ADJUSTMENT] = 0.0, 0.0
    inner = first / spread[None, :, None]
    weights = (np.concatenate(list(inner), axis=1), *(_diagonal(one) for one, _ in middle), _diagonal(last))
    biases = (bias - np.einsum("i,mio->mo", shift, inner)[:, None], *(one for _, one in middle), end)
    return tuple(w.astype(np.float32) for w in weights), tuple(b.astype(np.float32).ravel() for b in biases)


def _diagonal(blocks: NDArray[Any]) -> NDArray[Any]:
    """[members, in, out] -> [members x in, members x out]"""
    members, inputs, outputs = blocks.shape
    found = np.zeros((members, inputs, members, outputs))
    found[np.arange(members), :, np.arange(members)] = blocks
    return found.reshape(members * inputs, members * outputs)
