"""One run, in the twin and on a plane: what its options resolve to, and that every request is accounted for."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
from msgspec.structs import replace

from loki_rl.control.formulation.request import RequestError
from loki_rl.control.policies.named import POLICIES
from loki_rl.core.messages import Outcome
from loki_rl.files.config import ConfigError
from loki_rl.runs.batch_runner import Case, check
from loki_rl.runs.options import Driver, RunOptions, read_options
from loki_rl.runs.result import RunResult, row
from loki_rl.runs.run import RUNNERS, prepare, run_twin
from loki_rl.traces.trace import TraceError
from tests.control.cards import agent_file

TAUGHT = {"learned", "ppo"}
EACH_SECOND = {"exact", "clairvoyant", "forecast", *TAUGHT}
CONTRACT = {
    "arrivals", "ok", "late", "dropped", "rejected", "cancelled", "failed", "slo_violation_ratio", "leaf_violation_ratio",
    "accuracy", "servers_mean", "p50_ms", "p99_ms", "task_executions", "cost_j", "wall_s",
}  # fmt: skip


Played = dict[Driver, RunResult]


def conserve(done: RunResult) -> None:
    """Every arrival ended in exactly one way, in every second and in all."""
    done.tally.validate()
    assert all(second.open == 0 for second in done.tally.seconds.values())
    figures = done.summary
    ends = (figures.ok, figures.late, figures.dropped, figures.rejected, figures.cancelled, figures.failed)
    assert figures.arrivals == sum(ends) == sum(map(done.tally.outcome, Outcome))


def demand(done: RunResult) -> dict[int, int]:
    return {number: second.arrivals for number, second in done.tally.seconds.items() if second.arrivals}


# -- what is prepared ---------------------------------------------------------------------------------------------------


def test_what_is_not_said_comes_from_the_pipeline_file_and_the_trace(run_options: RunOptions) -> None:
    scene = prepare(run_options)
    assert (scene.cluster.servers, scene.pipeline.slo_s, scene.duration_s) == (4, 0.4, 4.0)
    assert scene.policy.initial_rps == scene.policy.demand_rps == len(scene.times) / 4.0 == 25.0
    assert {variant.load_s for task in scene.pipeline.tasks for variant in task.variants} == {0.1}


def test_what_is_said_counts(run_options: RunOptions) -> None:
    said = replace(run_options, servers=7, slo_ms=300.0, load_s=0.7, initial_rps=5.0, demand_rps=9.0, from_s=1.0, to_s=3.0)
    scene = prepare(said)
    assert (scene.cluster.servers, scene.pipeline.slo_s, scene.duration_s) == (7, 0.3, 2.0)
    assert (scene.policy.initial_rps, scene.policy.demand_rps, len(scene.times)) == (5.0, 9.0, 70)
    assert {variant.load_s for task in scene.pipeline.tasks for variant in task.variants} == {0.7}


@pytest.mark.parametrize("policy", POLICIES)
def test_every_policy_plans_at_its_own_pace_unless_told_otherwise(policy: str, run_options: RunOptions) -> None:
    own = prepare(replace(run_options, policy=policy, interval_s=None))
    assert own.cluster.interval_s == own.policy.interval_s == (1.0 if policy in EACH_SECOND else 10.0)
    told = prepare(replace(run_options, policy=policy, interval_s=4.0))
    assert told.cluster.interval_s == told.policy.interval_s == 4.0


def test_an_agent_is_compared_at_its_pace_with_policies_at_theirs(tmp_path: Path) -> None:
    """What would stop a run is told before the first one; the pace of another policy is no reason."""
    each = RunOptions("traffic", driver="twin", model=agent_file(tmp_path, "traffic"))
    check([Case(replace(each, policy=policy), tmp_path / policy) for policy in ("exact", "ppo", "clairvoyant", "loki")])
    with pytest.raises(RequestError, match="trained for a plan every 1 s, not every 10 s"):
        check([Case(replace(each, policy=policy, interval_s=10.0), tmp_path / policy) for policy in ("exact", "ppo")])


def test_first_and_busiest_ten_seconds_are_measured(run_options: RunOptions, tmp_path: Path) -> None:
    path = tmp_path / "long.csv"
    path.write_text("t_seconds,requests\n" + "".join(f"{s},{40 if 10 <= s < 20 else 4}\n" for s in range(30)))
    policy = prepare(replace(run_options, trace=str(path))).policy
    assert (policy.initial_rps, policy.demand_rps) == (4.0, 40.0)


def test_policies_and_drivers_see_the_same_requests_and_seeds_see_others(run_options: RunOptions) -> None:
    times = prepare(run_options).times
    assert prepare(replace(run_options, policy="static", driver="emulated")).times.tobytes() == times.tobytes()
    assert prepare(replace(run_options, seed=1)).times.tobytes() != times.tobytes()


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"pipeline": "smal"}, ConfigError, "no pipeline 'smal'"),
        ({"slo_ms": 5.0}, ConfigError, "cannot be met"),
        ({"trace": "crowds"}, TraceError, "no trace 'crowds'"),
        ({"mean_rps": 5.0, "rate_scale": 2.0}, TraceError, "exclude each other"),
        ({"seed": -1}, TraceError, "seed"),
    ],
)
def test_what_cannot_be_prepared_says_why(
    run_options: RunOptions, change: dict[str, Any], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        prepare(replace(run_options, **change))


def test_run_json_holds_the_options_and_refuses_others(run_options: RunOptions) -> None:
    text = msgspec.json.encode(run_options)
    assert read_options(text) == run_options
    with pytest.raises(ValueError, match="polcy"):
        read_options(text.replace(b'"policy"', b'"polcy"'))
    with pytest.raises(ValueError, match="rerout"):
        read_options(text.replace(b'"reroute"', b'"rerout"'))


# -- the twin -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("scale", [1.0, 12.0])
def test_the_twin_accounts_for_every_request(run_options: RunOptions, policy: str, scale: float, tmp_path: Path) -> None:
    model = agent_file(tmp_path, "small", action=6) if policy in TAUGHT else None
    done = run_twin(replace(run_options, policy=policy, rate_scale=scale, model=model))
    conserve(done)
    assert done.summary.arrivals == len(prepare(done.options).times)
    assert (done.trace, done.servers, done.provenance, done.duration_s) == ("crowd", 4, "assumed", 4.0)


def test_equal_options_give_equal_runs(run_options: RunOptions) -> None:
    first, second = run_twin(run_options), run_twin(run_options)
    assert first.summary == second.summary
    assert first.tally.seconds == second.tally.seconds
    assert first.tally.latencies == second.tally.latencies


def test_policies_are_no_aliases_of_each_other(run_options: RunOptions) -> None:
    """Under a crowd that the most accurate models cannot serve; two that want the same servers take them to be worth
    different things. `ppo` is what its agent makes of `exact`."""
    crowded = replace(run_options, rate_scale=8.0)
    seen = {policy: run_twin(replace(crowded, policy=policy)).tally.plans for policy in POLICIES if policy not in TAUGHT}
    plans = {
        policy: [(one.time, one.plan.demand_rps, one.plan.certificate.objective, one.plan.placements) for one in records]
        for policy, records in seen.items()
    }
    assert [(a, b) for a in plans for b in plans if a < b and plans[a] == plans[b]] == []


def test_an_unknown_policy_is_told_the_nearest(run_options: RunOptions) -> None:
    with pytest.raises(RequestError, match="did you mean 'exact'"):
        run_twin(replace(run_options, policy="exat"))


def test_the_row_of_a_run_has_the_keys_of_the_contract(run_options: RunOptions) -> None:
    assert row(run_twin(run_options)).keys() > CONTRACT | {"trace", "policy", "seed"}


# -- the plane ------------------------------------------------------------------------------------------------------------


def test_a_plane_accounts_for_the_same_requests(played: Played) -> None:
    conserve(played["emulated"])
    assert demand(played["emulated"]) == demand(played["twin"])
    assert played["emulated"].summary.arrivals == 100


def test_a_plane_knows_what_the_twin_knows(played: Played) -> None:
    plane, twin = played["emulated"], played["twin"]
    assert row(plane).keys() == row(twin).keys()
    assert all(value is not None for value in row(plane).values())
    assert plane.options.driver == "emulated"
    for name in ("trace", "servers", "best_accuracy", "provenance", "duration_s"):
        assert getattr(plane, name) == getattr(twin, name)


def test_a_plane_counts_servers_and_plans(played: Played) -> None:
    seconds = played["emulated"].tally.seconds
    assert all(0 < seconds[number].servers <= 4 for number in range(4))
    assert played["emulated"].tally.plans


def test_every_driver_has_a_runner() -> None:
    assert RUNNERS.keys() == set(get_args(Driver))
