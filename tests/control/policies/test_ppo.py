"""An agent that adjusts what `exact` believes, and when it is not believed itself."""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
import pytest
from msgspec.structs import replace
from numpy.typing import NDArray

from loki_rl.control.formulation.request import RequestError
from loki_rl.control.learned.observation import ACTIONS, NO_ADJUSTMENT, OBSERVATION
from loki_rl.control.policies.named import make_policy
from loki_rl.control.policies.options import PolicyOptions
from loki_rl.control.policies.ppo import Adjusting
from loki_rl.core.pipeline import Latency, Pipeline, Task, Variant
from loki_rl.core.plan import Adjustment, Exclusion, Plan, Server, Snapshot
from loki_rl.env.gym.spaces import NAMES
from tests.control.cards import made_up

SERVERS = 6
MORE = 7


class Fixed:
    """An agent that always wants the same."""

    def __init__(self, action: int, low: float = -9.0, high: float = 9.0) -> None:
        self.action = action
        self.card = made_up("p", low, high)

    def logits(self, observation: NDArray[np.float32], mask: NDArray[np.bool_]) -> NDArray[np.float32]:  # noqa: ARG002
        return np.array([action == self.action for action in range(ACTIONS)], np.float32)


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    accurate = Variant("accurate", 1.0, {1: Latency(0.04, 0.04, 0.04)}, load_s=5.0)
    fast = Variant("fast", 0.8, {1: Latency(0.01, 0.01, 0.01)}, load_s=5.0)
    variants = (accurate, fast)
    return Pipeline("p", 0.5, (Task("t", variants, entry=1.0),), {"t": 1.0}, servers=SERVERS)


def snapshot(rps: float = 60.0, seconds: int = 60, age_s: float = 0.0, now: float = 60.0) -> Snapshot:
    arrivals = tuple(int(x) for x in np.random.default_rng(0).poisson(rps, seconds))
    return Snapshot(now, 1.0, arrivals, age_s, ())


def adjusting(pipeline: Pipeline, agent: Fixed, **options: object) -> Adjusting:
    return Adjusting(pipeline, PolicyOptions(servers=SERVERS, interval_s=1.0, **options), agent=agent)  # type: ignore[arg-type]


def able_rps(pipeline: Pipeline, plan: Plan) -> float:
    """What all of its servers take at full use."""
    each_s = {variant.name: variant.latency[1].p50 for variant in pipeline.tasks[0].variants}
    return sum(place.replicas / each_s[place.variant] for place in plan.placements)


def test_an_agent_moves_the_room(pipeline: Pipeline) -> None:
    as_it_is = adjusting(pipeline, Fixed(NO_ADJUSTMENT)).decide(snapshot())
    less, more = (adjusting(pipeline, Fixed(action)).decide(snapshot()) for action in (0, MORE))
    assert less.demand_rps == more.demand_rps == as_it_is.demand_rps, "what is expected stays"
    assert re.search(r"adjusted demand of [\d.]+ to [\d.]+ requests/s by 2, odds by 1", said(more))
    assert able_rps(pipeline, less) < able_rps(pipeline, as_it_is) < able_rps(pipeline, more)
    assert more.adjustment == Adjustment(2.0, 1.0)


def said(plan: Plan) -> str:
    return plan.reasons[-1]


def decision(plan: Plan) -> Plan:
    """What the cluster is told to do: without why, and without how long that took to find."""
    return replace(plan, reasons=(), adjustment=None, certificate=replace(plan.certificate, build_ms=0.0, solve_ms=0.0))


def without(pipeline: Pipeline, seen: Snapshot) -> Plan:
    """The plan of `exact`."""
    return decision(make_policy("exact", pipeline, PolicyOptions(servers=SERVERS, interval_s=1.0)).decide(seen))


class Watching(Fixed):
    """Keeps what it sees and may do."""

    def logits(self, observation: NDArray[np.float32], mask: NDArray[np.bool_]) -> NDArray[np.float32]:
        self.seen = dict(zip(NAMES, observation.tolist(), strict=True)), mask
        return super().logits(observation, mask)


def test_an_agent_sees_how_many_servers_are_there_and_how_late_the_counts_are(pipeline: Pipeline) -> None:
    agent = Watching(NO_ADJUSTMENT)
    policy = adjusting(pipeline, agent)
    for there, age_s, late in ((6, 0.02, 0.0), (4, 0.02, 0.0), (6, 0.98, 0.0), (5, 1.02, 0.5), (6, 2.4, 1.0)):
        warm = tuple(Server(i, ("t", "fast", 1), (("t", "fast"),)) for i in range(there))
        policy.decide(replace(snapshot(age_s=age_s), servers=warm))
        seen, _ = agent.seen
        assert seen["servers_share"] == pytest.approx(there / SERVERS)
        assert seen["metric_age"] == late
        assert seen["used_share"] == 1.0


def test_the_room_left_serves_what_the_last_seconds_had_as_far_as_there_are_servers(pipeline: Pipeline) -> None:
    agent = Watching(NO_ADJUSTMENT)
    policy, legal = adjusting(pipeline, agent), []
    for there in (6, 1):
        warm = tuple(Server(i, ("t", "fast", 1), (("t", "fast"),)) for i in range(there))
        policy.decide(replace(snapshot(), arrivals=(200,) * 40 + (900, 0), servers=warm))
        legal.append(int(agent.seen[1].sum()))
    assert legal[0] < legal[1]


class TestFallback:
    """Whenever something is wrong the plan is the one without the agent, who would have moved it."""

    @pytest.fixture
    def policy(self, pipeline: Pipeline) -> Adjusting:
        policy = adjusting(pipeline, Fixed(MORE))
        assert decision(policy.decide(snapshot())) != without(pipeline, snapshot())
        return policy

    def falls_back(self, policy: Adjusting, pipeline: Pipeline, seen: Snapshot, why: str) -> None:
        plan = policy.decide(seen)
        assert decision(plan) == without(pipeline, seen)
        assert plan.adjustment is not None
        assert plan.adjustment.fallback
        assert why in said(plan)

    def test_nothing_counted(self, policy: Adjusting, pipeline: Pipeline) -> None:
        self.falls_back(policy, pipeline, snapshot(seconds=0), "nothing was counted yet")

    def test_stale_counts(self, policy: Adjusting, pipeline: Pipeline) -> None:
        self.falls_back(policy, pipeline, snapshot(age_s=30.0), "counts are 30 s old")

    def test_a_model_that_cannot_be_loaded(self, policy: Adjusting, pipeline: Pipeline) -> None:
        seen = replace(snapshot(), exclusions=(Exclusion("t", "fast", "", "broken"),))
        self.falls_back(policy, pipeline, seen, "'fast' of 't' cannot be loaded")

    def test_outside_of_the_training_range(self, pipeline: Pipeline) -> None:
        strange = adjusting(pipeline, Fixed(MORE, low=-0.01, high=0.0))
        self.falls_back(strange, pipeline, snapshot(), "outside of the training range")

    def test_not_a_number(self, policy: Adjusting, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
        bad, mask = np.full(OBSERVATION, np.nan, np.float32), np.ones(ACTIONS, np.bool_)
        monkeypatch.setattr(policy, "_observe", lambda *_: (bad, mask))
        self.falls_back(policy, pipeline, snapshot(), "not a number")

    def test_it_sits_out_some_intervals_before_it_is_believed_again(self, policy: Adjusting, pipeline: Pipeline) -> None:
        policy.decide(snapshot(age_s=30.0))
        seen = [snapshot(now=70.0 + i) for i in range(3)]
        assert [decision(policy.decide(one)) == without(pipeline, one) for one in seen] == [True, True, False]


def placed(plan: Plan, model: str = "") -> tuple[Server, ...]:
    """The servers once the plan is carried out; of those of one model some still load."""
    models = [(p.task, p.variant, p.batch) for p in plan.placements for _ in range(p.replicas)]
    return tuple(
        Server(i, None, (one[:2],), one, 4.0) if one[1] == model and i % 2 else Server(i, one, (one[:2],))
        for i, one in enumerate(models)
    )


def played(pipeline: Pipeline) -> Iterator[Snapshot]:
    """Some minutes of demand that rises and falls, from servers that follow `exact`."""
    base = make_policy("exact", pipeline, PolicyOptions(servers=SERVERS, interval_s=1.0))
    counts, servers = np.random.default_rng(1).poisson(60 + 50 * np.sin(np.arange(300) / 25)), tuple[Server, ...]()
    for now in range(40, 300, 10):
        seen = Snapshot(float(now), 1.0, tuple(counts[:now].tolist()), 0.0, servers)
        yield seen
        servers = placed(base.decide(seen), "fast" if now % 20 else "")


def test_an_agent_that_is_never_believed_is_exact_snapshot_by_snapshot(pipeline: Pipeline) -> None:
    believed, doubted = Fixed(MORE), Fixed(MORE, low=-0.01, high=0.0)
    policy = adjusting(pipeline, doubted)
    exact = make_policy("exact", pipeline, PolicyOptions(servers=SERVERS, interval_s=1.0))
    moved, plans = adjusting(pipeline, believed), []
    for seen in played(pipeline):
        plans.append(decision(policy.decide(seen)))
        assert plans[-1] == decision(exact.decide(seen))
    assert len({plan.placements for plan in plans}) > 2
    assert [decision(moved.decide(seen)) for seen in played(pipeline)] != plans


def test_without_an_agent_there_is_one_sentence(pipeline: Pipeline) -> None:
    with pytest.raises(RequestError, match="no agent is shipped for pipeline 'p'; train one with 'loki-rl train'"):
        make_policy("ppo", pipeline, PolicyOptions(servers=SERVERS))


def test_a_missing_model_file_is_told_at_the_start(pipeline: Pipeline) -> None:
    with pytest.raises(RequestError, match="there is no model file"):
        make_policy("ppo", pipeline, PolicyOptions(servers=SERVERS, model="nowhere.onnx"))


def test_the_same_history_gives_the_same_plan(pipeline: Pipeline) -> None:
    plans = [adjusting(pipeline, Fixed(5)).decide(snapshot()) for _ in range(2)]
    assert plans[0].placements == plans[1].placements
    assert replace(plans[0], certificate=plans[1].certificate) == plans[1]
