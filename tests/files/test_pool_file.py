"""Pool files: what the shipped one says, and what a wrong one is told."""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from pathlib import Path

import pytest
from msgspec.structs import replace

from loki_rl.core.pipeline import Latency
from loki_rl.core.servers.server_type import ServerType, as_run_by
from loki_rl.files.config import ConfigError, load_pipeline
from loki_rl.files.pool_file import load_pool
from loki_rl.files.profile_file import Load, ProfileFile, Timing

Write = Callable[[str], Path]

GOOD = """\
types:
  gpu: {count: 2, price: 3.5, memory_mb: 8000, speed: 2, devices: ["cuda:0", "cuda:1"]}
  cpu: {count: 4, profile: cpu.json, devices: [cpu]}
"""
MEASURED = ProfileFile(
    device="cpu",
    provider="CPUExecutionProvider",
    ort_version="1.22",
    padded=False,
    as_served=False,
    created="2026-01-01T00:00:00+00:00",
    command="loki-rl profile small",
    provenance="by hand",
    variants=(
        Timing("find", "quick", 1, 20, 22, 24),
        Timing("read", "fast", 1, 6, 7, 8),
        Timing("read", "gone", 1, 1, 1, 1),
    ),
    loads=(Load("find", "quick", 2.0, 300.0),),
)


@pytest.fixture
def write(tmp_path: Path) -> Write:
    MEASURED.save(tmp_path / "cpu.json")

    def write(text: str) -> Path:
        path = tmp_path / "pool.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_a_file_becomes_types(write: Write, small: Path) -> None:
    file = load_pipeline(small)
    gpu, cpu = load_pool(write(GOOD), [file]).types
    assert (gpu.name, gpu.count, gpu.price, gpu.memory_mb, gpu.speed) == ("gpu", 2, 3.5, 8000.0, 2.0)
    assert (cpu.name, cpu.count, cpu.price, cpu.memory_mb, cpu.speed) == ("cpu", 4, 1.0, inf, None)
    assert (gpu.devices, cpu.devices) == (("cuda:0", "cuda:1"), ("cpu",))
    fast, slow = as_run_by(file.pipeline, gpu), as_run_by(file.pipeline, cpu)
    assert fast.variant("find", "quick").latency[2] == Latency(0.0035, 0.004, 0.004)
    assert slow.variant("find", "quick").latency == {1: Latency(0.02, 0.022, 0.024)}
    assert (slow.variant("find", "quick").load_s, slow.variant("find", "quick").memory_mb) == (2.0, 300.0)
    assert slow.variant("read", "fast").load_s == file.pipeline.variant("read", "fast").load_s
    assert [v.runnable for task in slow.tasks for v in task.variants] == [True, False, True, False]
    assert (fast.padded, slow.padded) == (True, False)


def test_what_does_not_fit_the_memory_does_not_run(small: Path) -> None:
    pipeline = load_pipeline(small).pipeline
    find = pipeline.tasks[0]
    large = replace(find.variants[1], memory_mb=500.0)
    pipeline = replace(pipeline, tasks=(replace(find, variants=(find.variants[0], large)), pipeline.tasks[1]))
    assert as_run_by(pipeline, ServerType(memory_mb=500.0)) is pipeline
    small_one = as_run_by(pipeline, ServerType(memory_mb=499.0))
    assert [one.runnable for one in small_one.tasks[0].variants] == [True, False]
    assert small_one.fastest_s == pipeline.fastest_s
    assert as_run_by(pipeline, ServerType("again", count=7, price=9.0, memory_mb=499.0)) is small_one


def test_the_shipped_pool(small: Path) -> None:
    kinds = load_pool("three-types", [load_pipeline(small)]).types
    assert [(kind.name, kind.count, kind.price) for kind in kinds] == [("large", 8, 3), ("medium", 6, 2), ("small", 6, 1)]


def test_profiles_by_pipeline_leave_others_to_the_speed(write: Write, small: Path) -> None:
    files = [load_pipeline(small), load_pipeline("traffic")]
    (kind,) = load_pool(write("types: {a: {count: 1, speed: 3, profile: {small: cpu.json, other: no.json}}}"), files).types
    assert (kind.speed, set(kind.profiles)) == (3.0, {"small"})


MISTAKES = {
    "types: {}": "no type of servers; add one under 'types'",
    "type: {}": "unknown key 'type'; did you mean 'types'?",
    "types: {a: {}}": "type 'a': the key 'count' is missing; add it",
    "types: {a: {count: many}}": "type 'a', at 'count': expected a whole number",
    "types: {a: {count: -1}}": "count must be at least 0, not -1",
    "types: {a: {count: 0}}": "there is no server of any type",
    "types: {a b: {count: 1}}": "the name must be one word",
    "types: {a: {count: 1, prize: 2}}": "unknown key 'prize'; did you mean 'price'?",
    "types: {a: {count: 1, price: 0}}": "price must be above 0, not 0",
    "types: {a: {count: 1, memory_mb: -5}}": "memory_mb must be above 0, not -5",
    "types: {a: {count: 1, speed: .nan}}": ".nan is not a finite number",
    "types: {a: {count: 1, speed: 0}}": "speed must be above 0, not 0",
    "types: {a: {count: 1, devices: [gpu]}}": "the device 'gpu' must be cpu, cpu+N, cuda:N or tensorrt:N",
    "types: {a: {count: 2, devices: [cpu, 'cuda:0']}}": "name devices of one kind, not cpu and cuda",
    "types: {a: {count: 2, devices: ['cuda:0', 'cuda:0']}}": "a device stands twice",
    "types: {a: {count: 1, devices: ['cuda:0', 'cuda:1']}}": "2 devices for 1 servers; raise count",
    "types: {a: {count: 1, profile: no.json}}": "does not exist; run 'loki-rl profile small'",
    "types: {a: {count: 1, profile: pool.yaml}}": "measure it again with 'loki-rl profile'",
    "types: {a: {count: 1}, a: {count: 2}}": "the key 'a' stands twice",
}


@pytest.mark.parametrize("text", MISTAKES)
def test_a_wrong_file(write: Write, small: Path, text: str) -> None:
    path = write(text)
    with pytest.raises(ConfigError) as told:
        load_pool(path, [load_pipeline(small)])
    assert str(told.value).startswith(str(path.parent))
    assert MISTAKES[text] in str(told.value)


def test_a_profile_of_another_pipeline(write: Write) -> None:
    with pytest.raises(ConfigError, match="measured no variant of 'traffic', such as car_classification/efficientnet-b0"):
        load_pool(write(GOOD), [load_pipeline("traffic")])


def test_one_profile_for_two_pipelines(write: Write, small: Path) -> None:
    with pytest.raises(ConfigError, match=r"'profile' must name a file for each of small, traffic: \{small: FILE\}"):
        load_pool(write(GOOD), [load_pipeline(small), load_pipeline("traffic")])


def test_a_profile_without_single_items(write: Write, small: Path, tmp_path: Path) -> None:
    replace(MEASURED, variants=(Timing("find", "quick", 2, 20, 22, 24),)).save(tmp_path / "cpu.json")
    with pytest.raises(ConfigError, match=r"type 'cpu': .*the latency of batch 1 is missing"):
        load_pool(write(GOOD), [load_pipeline(small)])


def test_no_such_pool(small: Path) -> None:
    with pytest.raises(ConfigError, match=r"no pool 'three-type' in .*did you mean 'three-types'"):
        load_pool("three-type", [load_pipeline(small)])
