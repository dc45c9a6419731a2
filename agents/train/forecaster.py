"""Training of the network of policy `forecast` with torch; its features and inference are in
control/demand/exceedance_features.py and control/demand/exceedance_net.py."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from msgspec import Struct
from msgspec.structs import replace
from numpy.typing import NDArray

from loki_rl.agents.train.demand_series import Series
from loki_rl.control.demand.belief import Belief
from loki_rl.control.demand.estimators import FLOOR_RPS, PEAK_S, Floats, together
from loki_rl.control.demand.exceedance import MEMORY_S, seen
from loki_rl.control.demand.exceedance_features import FEATURES, RARE, features, log_odds
from loki_rl.control.demand.exceedance_net import CLIP, ExceedanceNet
from loki_rl.control.demand.tanh_network import layers_of
from loki_rl.core.draws import FORECASTER
from loki_rl.traces.arrivals import generator

HIDDEN, RATE, DECAY, BATCH = 48, 4e-3, 1e-4, 2048
LEADS_S = (5.0, 30.0)
# Half of the levels that are learnt from lie between these times the mean, the others so closely around demand.
FAR, NEAR, AT_ONCE = (0.03, 10.0), 0.3, 12
# An error costs what demand it is about, as a share of the mean, up to this; no level stands for more than so many.
DEAREST, MOST = 4.0, 20.0


Places = NDArray[np.int64]


class Samples(Struct, frozen=True, eq=False):
    """rows [n, FEATURES] at one level each; above [n]: what is believed, share [n]: what came. weight [n]: what an error
    costs. family [n]: of the demand."""

    rows: Floats
    above: Floats
    share: Floats
    weight: Floats
    family: NDArray[np.str_]


def samples_of(series: Iterable[Series], each: int, seed: int) -> Samples:
    """At so many random ends of every series: after as much as a controller may have seen, within a random lead."""
    rng, found = generator(seed, FORECASTER), list[Samples]()
    for one in series:
        for _ in range(each):
            lead = round(float(np.exp(rng.uniform(*np.log(LEADS_S)))))
            if len(one.counts) > lead + 1:
                end = int(rng.integers(1, len(one.counts) - lead))
                begin = max(0, end - int(rng.integers(1, MEMORY_S + 1)))
                found.append(_sample(one.family, one.counts[begin : end + lead], lead, rng))
    return Samples(*(np.concatenate([getattr(one, name) for one in found]) for name in Samples.__struct_fields__))


def _sample(family: str, counts: Floats, lead: int, rng: np.random.Generator) -> Samples:
    """Some levels, after all but the last `lead` seconds of these counts."""
    known, came = counts[:-lead], together(counts[-lead - PEAK_S + 1 :], PEAK_S)
    belief = Belief(FAR[1] * max(known.max(), known.mean(), FLOOR_RPS))
    coming = belief.from_history(known, float(lead))
    chosen, weight = _levels(belief.levels, coming.expected_rps, coming.mean_rps, rng)
    levels, above = belief.levels[chosen], coming.above[chosen]
    rows = features(known, levels, above, coming.mean_rps, float(lead))
    return Samples(rows, above, seen(levels, came), weight, np.full(len(levels), family))


def _levels(levels: Floats, demand_rps: float, mean_rps: float, rng: np.random.Generator) -> tuple[Places, Floats]:
    """Places of the levels to learn from, rising, and what each stands for, by how likely it was to be drawn."""
    low, high, middle = (float(np.log(rate)) for rate in (FAR[0] * mean_rps, FAR[1] * mean_rps, demand_rps))
    drawn = (rng.uniform(low, high, AT_ONCE // 2), rng.normal(middle, NEAR, AT_ONCE - AT_ONCE // 2))
    chosen = np.searchsorted(levels[:-1], np.exp(np.sort(np.concatenate(drawn))))
    logs = np.log(levels[chosen])
    around = np.exp(-(((logs - middle) / NEAR) ** 2) / 2) / (NEAR * np.sqrt(2 * np.pi))
    density = ((logs > low) & (logs < high)) / (high - low) / 2 + around / 2
    cost = np.minimum(levels[chosen] / mean_rps, DEAREST) / np.maximum(density * AT_ONCE, DEAREST / MOST)
    return chosen, cost


def log_loss(net: ExceedanceNet | None, samples: Samples) -> Floats:
    """Of each sample [n], by its weight; without a network that of the belief."""
    odds = log_odds(samples.above) + (0.0 if net is None else net.correction(samples.rows))
    likely = np.clip(1 / (1 + np.exp(-odds)), RARE, 1 - RARE)
    found: Floats = -samples.weight * (samples.share * np.log(likely) + (1 - samples.share) * np.log(1 - likely))
    return found


def train_forecaster(train: Samples, validation: Samples, note: str, epochs: int, seed: int) -> ExceedanceNet:
    """A network of two hidden layers that begins as no correction, by AdamW on log loss; the best epoch by validation."""
    import torch

    torch.manual_seed(seed)
    torch.set_num_threads(1)
    center, spread = train.rows.mean(axis=0), train.rows.std(axis=0) + 1e-3
    standard = np.clip((train.rows - center) / spread, -CLIP, CLIP)
    inputs = (standard, log_odds(train.above), train.share, train.weight)
    data = [torch.tensor(part, dtype=torch.float32) for part in inputs]
    modules, best = _network(torch), None
    whole = float(log_loss(None, validation).mean())
    for _ in _epochs(torch, torch.nn.Sequential(*modules), data, epochs):
        found = ExceedanceNet(*layers_of(modules, np.float64), center, spread, 0.0, note)
        found = replace(found, error=float(log_loss(found, validation).mean()) / whole)
        best = found if best is None or found.error < best.error else best
    assert best is not None
    return best


def _epochs(torch: Any, net: Any, data: Sequence[Any], epochs: int) -> Iterator[int]:
    """Pass over the data [features, believed log-odds, share, weight], and say after each how many are done."""
    x, believed, share, weight = data
    optimiser = torch.optim.AdamW(net.parameters(), lr=RATE, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=epochs * -(-len(x) // BATCH))
    for epoch in range(epochs):
        for chosen in torch.split(torch.randperm(len(x)), BATCH):
            optimiser.zero_grad()
            odds = net(x[chosen])[:, 0] + believed[chosen]
            torch.nn.functional.binary_cross_entropy_with_logits(odds, share[chosen], weight[chosen]).backward()
            optimiser.step()
            schedule.step()
        yield epoch + 1


def _network(torch: Any) -> list[Any]:
    last = torch.nn.Linear(HIDDEN, 1)
    torch.nn.init.zeros_(last.weight)
    torch.nn.init.zeros_(last.bias)
    first = (torch.nn.Linear(FEATURES, HIDDEN), torch.nn.Tanh(), torch.nn.Linear(HIDDEN, HIDDEN), torch.nn.Tanh())
    return [*first, last]
