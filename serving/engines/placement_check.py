"""Whether the servers of a plane can run where they should."""

from __future__ import annotations

from collections import Counter

from loki_rl.core.options import ClusterOptions
from loki_rl.core.servers.servers import Servers
from loki_rl.serving.engines.device import Device
from loki_rl.serving.engines.engine import EngineError
from loki_rl.serving.engines.engine_factory import device_of
from loki_rl.serving.engines.hardware import memory_mb
from loki_rl.serving.engines.sessions import choose_device


def check_hosting(options: ClusterOptions, device: str) -> None:
    """Raise EngineError where a device is not there, or cannot hold what the servers on it may load. device: of servers
    whose type names none."""
    servers = Servers(options)
    on: dict[Device, Counter[int]] = {}
    chosen: dict[str, Device] = {}
    for number in range(options.servers):
        word, kind = device_of(options, device, number), servers.type_of(number)
        if word not in chosen:
            chosen[word] = _there(word, servers.types[kind].name)
        on.setdefault(chosen[word], Counter())[kind] += 1
    for place, counts in on.items():
        need = sum(count * held_mb(servers, kind) for kind, count in counts.items())
        there = memory_mb(place)
        if need > there:
            raise EngineError(
                f"the {sum(counts.values())} servers on {place.name} may hold {need:.0f} MB of models, and it has "
                f"{there:.0f} MB; put fewer there, or lower memory_mb in a pool file"
            )


def held_mb(servers: Servers, kind: int) -> float:
    """The most that the models on a server of a type take at once [MB]: one that serves and, where a swap keeps it until
    the next is warm, that one too."""
    variants = [variant for task in servers.pipelines[kind].tasks for variant in task.variants if variant.runnable]
    sizes = sorted((variant.memory_mb for variant in variants), reverse=True)
    models = 1 if servers.pipelines[kind].swap == "break" else 2
    return min(sum(sizes[:models]), servers.types[kind].memory_mb)


def _there(word: str, kind: str) -> Device:
    """The device, if it answers."""
    try:
        found = choose_device(word)
        memory_mb(found)
    except EngineError as error:
        raise EngineError(f"server type '{kind}': {error}" if kind else str(error)) from None
    return found
