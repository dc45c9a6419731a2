"""Siblings whose worker is lost are cut anew for other workers, and the gateway counts each of them once."""

from __future__ import annotations

from loki_rl.core.effects import Reply, Send
from loki_rl.core.messages import Ended, Event, Execute, Outcome, PlanChanged, Ready, Result, Submit, WorkerGone
from loki_rl.core.options import ClusterOptions
from loki_rl.core.pipeline import Latency, Pipeline, Task, Variant
from loki_rl.core.plan import Plan
from loki_rl.core.requests.items import Family, size
from loki_rl.core.routing.pull_router import PullRouter
from tests.core.gateway_events import SLO, arrive, make, replies

TEN = {1: Latency(0.01, 0.01, 0.01), 8: Latency(0.02, 0.02, 0.02)}
CHAIN = Pipeline(
    name="chain",
    slo_s=SLO,
    tasks=(
        Task("a", (Variant("only", 1.0, TEN, {"b": 1.0}),), entry=1.0),
        Task("b", (Variant("only", 1.0, TEN),), parent="a"),
    ),
    leaf_weights={"b": 1.0},
)
PLAN = Plan("hardware", (), 1, 0.9, 1.0, 10.0, 20.0, {"a": 0.3, "b": 1.0}, {})


def test_siblings_are_counted_once_however_they_are_cut_after_a_loss() -> None:
    """Five in three and two; then, as the worker with three is lost and its answer comes all the same, each of the three
    alone and the two together."""
    gateway, router = make(CHAIN), PullRouter(ClusterOptions(CHAIN, 5), 1)
    router.handle(PlanChanged(PLAN), 0.0)
    arrive(gateway, 1)
    item = CHAIN.entry_id(0, 0)
    gateway.handle(Ended(0, Outcome.OK, [Family(item, 0.0, SLO, 0)], 0, [(5,)]), 0.01)
    router.handle(Submit([Family(CHAIN.child_id(item, 1, 0), 0.0, SLO, CHAIN.extend(0, 0), None, 5)]), 0.01)
    given: list[Execute] = []
    answers: list[Reply] = []

    def tell(event: Event, now: float) -> None:
        for effect in router.handle(event, now):
            if isinstance(effect, Send) and isinstance(effect.message, Execute):
                given.append(effect.message)
            if isinstance(effect, Send) and isinstance(effect.message, Ended):
                answers.extend(replies(gateway.handle(effect.message, now)))

    def result(worker: int, batch: Execute) -> Result:
        return Result(worker, 0, batch.batch, batch.variant, [], 0.01, "")

    tell(Ready(0, 0, 1, 0, 3), 0.011)
    tell(WorkerGone(0, "killed"), 0.012)
    for worker in (1, 2, 3, 4):
        tell(Ready(worker, 0, 1, 0, 8), 0.013)
    tell(result(0, given[0]), 0.014)
    assert [size(batch.families) for batch in given] == [3, 1, 1, 1, 2]
    for worker in (1, 2, 3, 4):
        assert answers == []
        tell(result(worker, given[worker]), 0.016)
    (reply,) = answers
    assert (reply.outcome, sum(leaf.count for leaf in reply.leaves)) == (Outcome.OK, 5)
    assert gateway.tally.executions == 6
    gateway.validate()
    assert not gateway.roots
