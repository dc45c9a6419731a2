"""What this host is: the name that a profile is keyed by, and the memory of this process."""

from __future__ import annotations

import ctypes
import gc
import os
import subprocess
from pathlib import Path
from typing import NamedTuple

import onnxruntime as ort

from loki_rl.serving.engines.device import Device
from loki_rl.serving.engines.engine import EngineError
from loki_rl.serving.engines.sessions import choose_devices
from loki_rl.serving.host import processor

MEMORY_INFO, STAT = Path("/proc/self/statm"), Path("/proc/stat")
# Of the columns user, nice, system, idle, iowait, irq, softirq, steal: all but the two idle ones.
_BUSY, _STEAL = (0, 1, 2, 5, 6, 7), 7


def device_name(device: Device) -> str:
    """The name that decides whether a profile was measured on such a device: model, and for a CPU its number of cores.

    Raises EngineError if a GPU does not answer."""
    return _gpu_name(device.index) if device.on_gpu else processor()


def measured_on(device: str) -> tuple[str, str, str]:
    """What a profile made here with --device would be keyed by: device name, way of running, ONNX Runtime version.

    Raises EngineError if the device is not there, or if several are not alike: a profile holds for one kind."""
    chosen = choose_devices(device)
    names = sorted({device_name(one) for one in chosen})
    if len(names) > 1:
        raise EngineError(f"{device} are not alike ({', '.join(names)}), and a profile holds for one kind; name alike ones")
    return names[0], chosen[0].way, ort.__version__


def memory_mb(device: Device) -> float:
    """All memory of a device [MB]. Raises EngineError if a GPU does not answer."""
    if device.on_gpu:
        return float(_ask_gpu(device.index, "memory.total").removesuffix("MiB")) * 1.048576
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e6


def resident_mb() -> float:
    """Memory that this process really uses [MB], what it freed not included; 0 where the system does not tell."""
    if not MEMORY_INFO.is_file():
        return 0.0
    _give_back()
    return int(MEMORY_INFO.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def _give_back() -> None:
    """Return freed memory to the system: kept for reuse, it would hide what the next model takes."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc only
    if trim is not None:
        trim(0)


def _gpu_name(index: int) -> str:
    return _ask_gpu(index, "name")


def _ask_gpu(index: int, what: str) -> str:
    command = ["nvidia-smi", f"--query-gpu={what}", "--format=csv,noheader", f"--id={index}"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()
    except (OSError, subprocess.SubprocessError) as error:
        raise EngineError(f"GPU {index} does not answer to nvidia-smi; check the NVIDIA driver") from error


class Account(NamedTuple):
    """CPU time [s] since some time ago. own: of this process and its ended children; busy: of all processes, stolen time
    included; stolen: by the hypervisor; passed: of all cores, idle or not."""

    own: float
    busy: float
    stolen: float
    passed: float


class HostLoad:
    """What others take of this host's cores. Counts from its making on; processes started by this one count as its own once
    they have ended."""

    def __init__(self) -> None:
        self._begin = _account()

    def share(self) -> float:
        """Share of all cores' time that others took since then, 0..1; 0 where the system does not tell."""
        now, then = _account(), self._begin
        return _share(now.busy - then.busy - (now.own - then.own), now.passed - then.passed)

    def steal(self) -> float:
        """Of that, what the hypervisor took."""
        now, then = _account(), self._begin
        return _share(now.stolen - then.stolen, now.passed - then.passed)


def _share(part: float, passed: float) -> float:
    return min(1.0, max(0.0, part) / passed) if passed > 0 else 0.0


def _account() -> Account:
    own = sum(os.times()[:4])
    if not STAT.is_file():
        return Account(own, 0.0, 0.0, 0.0)
    columns = [int(word) / os.sysconf("SC_CLK_TCK") for word in STAT.read_text().splitlines()[0].split()[1:9]]
    return Account(own, sum(columns[place] for place in _BUSY), columns[_STEAL], sum(columns))
