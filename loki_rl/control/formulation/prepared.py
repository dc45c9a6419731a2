"""What stays the same while demand changes: configurations, accuracies and networks of a pipeline on some types of servers
under one latency model."""

from __future__ import annotations

from functools import cached_property

from loki_rl.control.formulation.accuracy import Accuracies
from loki_rl.control.formulation.configurations import Configuration, enumerate_all, reduce
from loki_rl.control.formulation.latency import latency_model
from loki_rl.control.formulation.network import Network, build_network
from loki_rl.control.formulation.request import Request
from loki_rl.control.lru import Lru
from loki_rl.core.pipeline import Pipeline
from loki_rl.core.servers.server_type import as_run_by

KEPT = 64


class Prepared:
    """Prepared once per (pipeline, types of servers, latency model, SLO, headroom).

    by_type: the pipeline as each type runs it.
    """

    def __init__(self, pipeline: Pipeline, request: Request) -> None:
        self.pipeline = pipeline
        self.slo_s = pipeline.slo_s if request.slo_s is None else request.slo_s
        self.by_type = [as_run_by(pipeline, kind) for kind in request.types]
        models = [latency_model(request.queueing, one, self.slo_s) for one in self.by_type]
        self.budget_us = models[0].budget_us  # of the SLO and the tree alone
        self.accuracies = Accuracies(pipeline)
        self.all = [
            c
            for pool, (one, model) in enumerate(zip(self.by_type, models, strict=True))
            for c in enumerate_all(one, model, request.headroom, pool)
        ]

    @property
    def reserving(self) -> bool:
        """Whether the latency model keeps servers idle."""
        return any(c.reserve > 0 for c in self.all)

    @property
    def feasible(self) -> bool:
        """Whether any path fits the SLO."""
        return bool(self.configurations)

    @cached_property
    def configurations(self) -> list[Configuration]:
        """Enough for every plan that does not care what runs already."""
        return reduce(self.pipeline, self.accuracies, self.all, self.budget_us)

    @cached_property
    def by_variant(self) -> list[Configuration]:
        """Enough for every plan, whichever variants it is rewarded to keep."""
        return reduce(self.pipeline, self.accuracies, self.all, self.budget_us, across_variants=False)

    @cached_property
    def network(self) -> Network:
        return self._network(self.configurations)

    @cached_property
    def best_network(self) -> Network:
        """Only paths of the best accuracy."""
        return self._network(self.configurations, best_only=True)

    @cached_property
    def variant_network(self) -> Network:
        """For plans that care which variants run already."""
        return self._network(self.by_variant)

    @cached_property
    def merged_network(self) -> Network:
        """The same without accuracy: what can be served at all."""
        return self._network(self.by_variant, merge=True)

    def _network(self, configurations: list[Configuration], best_only: bool = False, merge: bool = False) -> Network:
        return build_network(
            self.pipeline, self.accuracies, configurations, self.budget_us, best_only=best_only, merge=merge
        )


# Pipelines cannot be hashed; a setting holds its pipeline.
_settings: Lru[Prepared] = Lru(KEPT)


def prepare(pipeline: Pipeline, request: Request) -> Prepared:
    """The setting of a request, from the last KEPT ones where possible."""
    types = tuple(id(as_run_by(pipeline, kind)) for kind in request.types)
    key = (id(pipeline), types, request.queueing, request.slo_s, request.headroom)
    return _settings.get(key, lambda: Prepared(pipeline, request))
