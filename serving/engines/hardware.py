"""What this host is: the name that a profile is keyed by, and the memory of this process."""

from __future__ import annotations

import ctypes
import gc
import os
import platform
import subprocess
from pathlib import Path

import onnxruntime as ort

from loki_rl.serving.engines.device import Device
from loki_rl.serving.engines.engine import EngineError
from loki_rl.serving.engines.sessions import choose_devices

CPU_INFO, MEMORY_INFO, STAT = Path("/proc/cpuinfo"), Path("/proc/self/statm"), Path("/proc/stat")
# Of the columns user, nice, system, idle, iowait, irq, softirq, steal: all but the two idle ones.
_BUSY = (0, 1, 2, 5, 6, 7)


def device_name(device: Device) -> str:
    """The name that decides whether a profile was measured on such a device: model, and for a CPU its number of cores.

    Raises EngineError if a GPU does not answer."""
    return _gpu_name(device.index) if device.on_gpu else f"{_cpu_name()}, {os.cpu_count() or 1} cores"


def measured_on(device: str) -> tuple[str, str, str]:
    """What a profile made here with --device would be keyed by: device name, way of running, ONNX Runtime version.

    Raises EngineError if the device is not there, or if several are not alike: a profile holds for one kind."""
    chosen = choose_devices(device)
    names = sorted({device_name(one) for one in chosen})
    if len(names) > 1:
        raise EngineError(f"{device} are not alike ({', '.join(names)}), and a profile holds for one kind; name alike ones")
    return names[0], chosen[0].way, ort.__version__


def host_name(device: str) -> str:
    """This host's processor, and the devices that --device names. Raises EngineError if one is not there."""
    return ", ".join(dict.fromkeys(map(device_name, (Device("cpu"), *choose_devices(device)))))


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


def _cpu_name() -> str:
    if CPU_INFO.is_file():
        for line in CPU_INFO.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _gpu_name(index: int) -> str:
    return _ask_gpu(index, "name")


def _ask_gpu(index: int, what: str) -> str:
    command = ["nvidia-smi", f"--query-gpu={what}", "--format=csv,noheader", f"--id={index}"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()
    except (OSError, subprocess.SubprocessError) as error:
        raise EngineError(f"GPU {index} does not answer to nvidia-smi; check the NVIDIA driver") from error


class HostLoad:
    """What other programs take of this host's cores. Counts from its making on; processes started by this one count as its
    own once they have ended."""

    def __init__(self) -> None:
        self._begin = _account()

    def share(self) -> float:
        """Share of all cores' time that others took since then, 0..1; 0 where the system does not tell."""
        own, busy, passed = (now - then for now, then in zip(_account(), self._begin, strict=True))
        return min(1.0, max(0.0, busy - own) / passed) if passed > 0 else 0.0


def _account() -> tuple[float, float, float]:
    """CPU time of this process and its ended children, of all processes, and of all cores [s], since some time ago."""
    times = os.times()
    if not STAT.is_file():
        return sum(times[:4]), 0.0, 0.0
    columns = [int(word) / os.sysconf("SC_CLK_TCK") for word in STAT.read_text().splitlines()[0].split()[1:9]]
    return sum(times[:4]), sum(columns[place] for place in _BUSY), sum(columns)
