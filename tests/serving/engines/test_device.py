"""Words for devices: what they stand for, and what is said of those that stand for nothing."""

from __future__ import annotations

import pytest

from loki_rl.serving.engines.device import CPU, CUDA, TENSORRT, Device, dealt, named
from loki_rl.serving.engines.engine import EngineError

WORDS = {
    "cpu": (Device("cpu"),),
    "cpu+1": (Device("cpu"),),
    "cpu+4": (Device("cpu", option="4"),),
    "cuda": (Device("cuda"),),
    "cuda:3": (Device("cuda", 3),),
    "cuda:2,0": (Device("cuda", 2), Device("cuda", 0)),
    "cuda+graphs:1": (Device("cuda", 1, "graphs"),),
    "tensorrt": (Device("tensorrt"),),
    "tensorrt+fp16:0,1": (Device("tensorrt", 0, "fp16"), Device("tensorrt", 1, "fp16")),
}


@pytest.mark.parametrize("word", WORDS)
def test_a_word_and_its_devices(word: str) -> None:
    devices = named(word)
    assert devices == WORDS[word]
    assert all(named(device.name) == (device,) for device in devices)


def test_what_a_profile_is_keyed_by() -> None:
    ways = [named(word)[0].way for word in ("cpu", "cpu+4", "cuda:1", "cuda+graphs:1", "tensorrt", "tensorrt+fp16")]
    assert ways == [CPU, f"{CPU}+4", CUDA, f"{CUDA}+graphs", TENSORRT, f"{TENSORRT}+fp16"]


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("gpu", "device 'gpu' is unknown; use auto, cpu, cpu+N, cuda"),
        ("cpu:0", "is unknown"),
        ("cuda:", "is unknown"),
        ("cuda:0,", "is unknown"),
        ("", "is unknown"),
        ("cuda+fp16:0", "'fp16' is no option of cuda, which knows graphs"),
        ("tensorrt+graphs", "'graphs' is no option of tensorrt, which knows fp16"),
        ("cpu+fp16", "a worker on a CPU has 1 to 256 threads, as in cpu+4"),
        ("cpu+0", "has 1 to 256 threads"),
        ("cuda:1,1", "names a GPU twice"),
    ],
)
def test_a_word_for_nothing(word: str, sentence: str) -> None:
    with pytest.raises(EngineError) as told:
        named(word)
    assert sentence in str(told.value)


def test_workers_are_dealt_out_in_turn() -> None:
    assert [dealt("tensorrt+fp16:4,0", place) for place in range(3)] == [
        "tensorrt+fp16:4", "tensorrt+fp16:0", "tensorrt+fp16:4",
    ]  # fmt: skip
    assert dealt("auto", 7) == "auto"
