"""Where and how models run, as a user names it: the words for devices and what they stand for."""

from __future__ import annotations

import re
from typing import Literal

from msgspec import Struct

from loki_rl.serving.engines.engine import EngineError

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"

Kind = Literal["cpu", "cuda", "tensorrt"]
PROVIDERS: dict[str, str] = {"cpu": CPU, "cuda": CUDA, "tensorrt": TENSORRT}
# What a kind may be asked to do: run captured graphs, compute in half precision.
GRAPHS, FP16 = "graphs", "fp16"
OPTIONS: dict[str, tuple[str, ...]] = {"cuda": (GRAPHS,), "tensorrt": (FP16,)}
MOST_THREADS = 256
# CUDA where it is, else the CPU.
AUTO = "auto"

_WORD = re.compile(r"(?P<kind>[a-z]+)(\+(?P<option>\w+))?(:(?P<numbers>\d+(,\d+)*))?")
WORDS = "auto, cpu, cpu+N, cuda, cuda:N, cuda:0,1, cuda+graphs:N, tensorrt:N or tensorrt+fp16:N"


class Device(Struct, frozen=True):
    """Where sessions run. index: of the GPU, 0 on a CPU. option: one of OPTIONS, on a CPU a number of threads, or empty."""

    kind: Kind
    index: int = 0
    option: str = ""

    @property
    def on_gpu(self) -> bool:
        return self.kind != "cpu"

    @property
    def threads(self) -> int:
        """Of a session."""
        return int(self.option) if self.option and not self.on_gpu else 1

    @property
    def provider(self) -> str:
        return PROVIDERS[self.kind]

    @property
    def way(self) -> str:
        """Provider and option: what a profile is keyed by, since both decide how long a batch takes."""
        return f"{self.provider}+{self.option}" if self.option else self.provider

    @property
    def name(self) -> str:
        option = f"+{self.option}" if self.option else ""
        return f"{self.kind}{option}:{self.index}" if self.on_gpu else f"{self.kind}{option}"


def named(wanted: str) -> tuple[Device, ...]:
    """The devices that a word other than auto stands for. Raises EngineError for one that stands for none."""
    word = _WORD.fullmatch(wanted)
    kind, option = (word["kind"], word["option"] or "") if word else ("", "")
    if word is None or kind not in PROVIDERS or (kind == "cpu" and word["numbers"]):
        raise EngineError(f"device '{wanted}' is unknown; use {WORDS}")
    if kind == "cpu":
        return (_cpu(wanted, option),)
    if option and option not in OPTIONS[kind]:
        raise EngineError(f"device '{wanted}': '{option}' is no option of {kind}, which knows {', '.join(OPTIONS[kind])}")
    indices = [int(number) for number in (word["numbers"] or "0").split(",")]
    if len(set(indices)) < len(indices):
        raise EngineError(f"device '{wanted}' names a GPU twice; --workers-per-gpu puts several workers on each")
    return tuple(Device(kind, index, option) for index in indices)  # type: ignore[arg-type]


def check_word(wanted: str) -> None:
    """Raise EngineError for a word that stands for no device, wherever that would be."""
    if wanted != AUTO:
        named(wanted)


def _cpu(wanted: str, option: str) -> Device:
    """One thread is what a CPU has without an option."""
    if option and not (option.isdecimal() and 1 <= int(option) <= MOST_THREADS):
        raise EngineError(f"device '{wanted}': a worker on a CPU has 1 to {MOST_THREADS} threads, as in cpu+4")
    threads = int(option or 1)
    return Device("cpu", option=str(threads) if threads > 1 else "")


def dealt(devices: str, place: int) -> str:
    """The device of the place-th worker (from 0): "cuda:0,1" deals them out in turn."""
    kind, colon, numbers = devices.partition(":")
    choice = numbers.split(",")
    return f"{kind}:{choice[place % len(choice)]}" if colon else devices
