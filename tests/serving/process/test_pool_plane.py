"""Planes of servers of several types: each worker runs as its own type does."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest
from msgspec.structs import replace

from loki_rl.core.draws import batch_seconds
from loki_rl.core.effects import Load, Run
from loki_rl.core.messages import BatchDone, Loaded, Outcome
from loki_rl.core.options import ClusterOptions
from loki_rl.core.pipeline import Latency, Pipeline, Task, Variant
from loki_rl.core.requests.items import Family
from loki_rl.core.servers.server_type import Figures, ServerType, TypeProfile, as_run_by
from loki_rl.serving.engines.device import Device
from loki_rl.serving.engines.emulated import EmulatedEngine
from loki_rl.serving.engines.engine import EngineError
from loki_rl.serving.engines.placement_check import check_hosting
from loki_rl.serving.gateway.client import Client
from loki_rl.serving.plane import PlaneFile, pack_options
from loki_rl.serving.process.launch import LocalPlane
from loki_rl.serving.process.layout import nodes_of
from loki_rl.serving.profiling.worker_log import read_workers
from loki_rl.serving.state import Control as ControlState
from tests.serving.driving import drive, eventually


def times(seconds: float) -> dict[int, Latency]:
    return {n: Latency(n * seconds, n * seconds, n * seconds) for n in (1, 2)}


FIND = (
    Variant("small", 0.5, times(0.002), {"read": 2.0}, 0.05, 100.0),
    Variant("large", 1.0, times(0.008), {"read": 2.0}, 0.05, 400.0),
)
READ = (Variant("only", 1.0, times(0.004), {}, 0.05, 100.0),)
PIPELINE = Pipeline("typed", 2.0, (Task("find", FIND, entry=1.0), Task("read", READ, parent="find")), {"read": 1.0})
# Twice as slow, and without room for the large model; the third was measured.
POOL = (
    ServerType("fast", 2, price=3.0, devices=("cuda:1", "cuda:0")),
    ServerType("slow", 3, memory_mb=300.0, speed=0.5),
    ServerType(
        "other", 1, speed=None, profiles={"typed": TypeProfile({("read", "only"): Figures(times(0.003), 0.2)}, False)}
    ),
)
OPTIONS = ClusterOptions(PIPELINE, 6, interval_s=0.5, pool=POOL)


# -- what is run where ------------------------------------------------------------------------------------------------------


def test_an_emulated_worker_takes_as_long_as_its_type() -> None:
    engine = EmulatedEngine(OPTIONS)
    try:
        for number, kind in ((0, POOL[0]), (4, POOL[1]), (5, POOL[2])):
            own = as_run_by(PIPELINE, kind)
            engine.carry(f"worker:{number}", Run(3, 1, 0, [Family(1, 0.0, 1.0, 0)]), 100.0)
            engine.carry(f"worker:{number}", Load(1, 0), 100.0)
            ends = {type(letter.message): letter.message for letter, _ in engine.collect(200.0)}
            seconds = batch_seconds(0, own, 3, 1, 0, 1)
            assert ends[BatchDone] == BatchDone(3, [], seconds)
            assert ends[Loaded] == Loaded(1, 0, own.tasks[1].variants[0].load_s)
    finally:
        engine.close()


def test_workers_start_on_the_devices_of_their_type() -> None:
    options = replace(OPTIONS, servers=7, pool=(replace(POOL[0], count=3), *POOL[1:]))
    nodes = nodes_of(options, "onnx", "cpu")
    assert [node.device for node in nodes if node.is_worker] == ["cuda:1", "cuda:0", "cuda:1", "cpu", "cpu", "cpu", "cpu"]
    alike = nodes_of(replace(OPTIONS, pool=()), "onnx", "cuda:0,2")
    assert [node.device for node in alike if node.is_worker] == ["cuda:0", "cuda:2"] * 3
    plane = msgspec.json.decode(msgspec.json.encode(PlaneFile(pack_options(options), nodes, "")), type=PlaneFile)
    assert plane.options == options


def test_what_does_not_fit_is_told_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EngineError, match=r"^server type 'fast': cuda:1 was asked for, but this ONNX Runtime has no CUDA"):
        check_hosting(OPTIONS, "cpu")
    cpu = replace(OPTIONS, pool=(replace(POOL[0], devices=()), *POOL[1:]))
    check_hosting(cpu, "cpu")
    monkeypatch.setattr("loki_rl.serving.engines.placement_check.memory_mb", lambda _: 1199.0)
    # 2 x 400 MB, 3 x 100 MB (the large model is not for these), 1 x 100 MB.
    with pytest.raises(EngineError, match=r"^the 6 servers on cpu may hold 1200 MB of models, and it has 1199 MB; "):
        check_hosting(cpu, "cpu")
    both = replace(cpu, pipeline=replace(PIPELINE, swap="make"))
    # 2 x (400 + 100) and 3 x (100 + 100), and the third type runs one model only.
    with pytest.raises(EngineError, match="may hold 1700 MB"):
        check_hosting(both, "cpu")


def test_each_gpu_must_hold_what_is_on_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loki_rl.serving.engines.placement_check.choose_device", lambda word: Device("cuda", int(word[-1])))
    monkeypatch.setattr("loki_rl.serving.engines.placement_check.memory_mb", lambda one: (900.0, 350.0)[one.index])
    with pytest.raises(EngineError, match="the 1 servers on cuda:1 may hold 400 MB of models, and it has 350 MB"):
        check_hosting(OPTIONS, "cuda:0")


# -- a whole plane ----------------------------------------------------------------------------------------------------------


@contextmanager
def typed(journal: Path | None = None) -> Iterator[tuple[LocalPlane, Client]]:
    plane = LocalPlane(OPTIONS, policy="hardware", policy_options={"initial_rps": 80.0}, check=True, journal=journal)
    with plane, Client(plane.front) as client:
        client.wait_ready()
        client.begin_run()
        yield plane, client


def test_plans_place_by_type_and_every_batch_takes_the_time_of_its_type(tmp_path: Path) -> None:
    with typed(tmp_path) as (plane, client):
        plan = control_of(client).plan
        assert plan is not None
        placed = plan.placements
        assert {place.server_type for place in placed if place.task == "find"} == {"fast"}, "the slow have no room for it"
        assert len({place.server_type for place in placed}) > 1
        ended = drive(client, 2.0, 60.0)
        tally = client.ledger().tally
        tally.validate()
        assert tally.arrivals == sum(tally.outcome(outcome) for outcome in Outcome) == sum(ended.values())
        assert ended["ok"]
        plane.check()
    assert {(bye.faults, bye.strays, bye.malformed) for bye in plane.byes.values()} == {(0, 0, 0)}
    kinds = set()
    for batch in read_workers(tmp_path).batches:
        number = int(batch.worker.partition(":")[2])
        kind = POOL[0 if number < 2 else 1 if number < 5 else 2]
        own = as_run_by(PIPELINE, kind)
        assert batch.seconds >= own.service_s[batch.task][batch.variant][batch.items] - 1e-6
        kinds.add(kind.name)
    assert len(kinds) > 1


def test_a_lost_server_is_planned_without_and_comes_back() -> None:
    with typed() as (plane, client):
        os.kill(plane.pids["workers-0"], signal.SIGKILL)
        eventually(lambda: plane.restarted == 1, "not restarted")
        eventually(lambda: servers(client) == set(range(6)), "its successors never reported")
        wait_for_plans(client, 2)
        assert drive(client, 1.0, 20.0).keys() <= {"ok", "late"}


def control_of(client: Client) -> ControlState:
    control = client.state().control
    assert control is not None
    assert not control.failures
    return control


def servers(client: Client) -> set[int]:
    return {worker.number for worker in control_of(client).workers}


def wait_for_plans(client: Client, count: int) -> None:
    """Plans go on being made, none of them fails."""

    def epoch() -> int:
        plan = control_of(client).plan
        return 0 if plan is None else plan.epoch

    first = epoch()
    eventually(lambda: epoch() >= first + count, "no further plan")
