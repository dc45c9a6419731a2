"""A recording as a plane makes it, made in the twin."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from loki_rl.control.policies.named import make_policy
from loki_rl.core.effects import Effect
from loki_rl.core.messages import Event
from loki_rl.env.simulate import Simulation, simulate
from loki_rl.flight.file import Writer
from loki_rl.flight.rows import AnyRow
from loki_rl.flight.sifter import Sifter
from loki_rl.runs.options import RunOptions
from loki_rl.runs.recorded.recording import begin_recording
from loki_rl.runs.run import prepare
from loki_rl.traces.demand import Wishes

Record = Callable[..., tuple[Path, Simulation]]


@pytest.fixture
def record(small: Path, crowd: Path, tmp_path: Path) -> Record:
    """A recording as a plane makes it, of actors in the twin, and what they counted."""

    def make(wishes: Wishes | None = None, origin: float = 0.0, **change: object) -> tuple[Path, Simulation]:
        options = replace(RunOptions(str(small), str(crowd), "loki", "emulated", rate_scale=3.0), **change)
        scene = prepare(options)
        file = begin_recording(tmp_path / "flight", scene.cluster, options)
        writer = Writer(file)
        policy = make_policy(options.policy, scene.pipeline, scene.policy)
        # On a clock of its own, as a host's is.
        sifter = Sifter(lambda row: writer.put(later(row, origin)), scene.pipeline)

        def record(address: str, now: float, event: Event, effects: list[Effect]) -> None:
            sifter.record(address, now, event, effects)
            writer.tick(now + origin)

        done = simulate(scene.cluster, policy.decide, scene.times, scene.duration_s, record, wishes=wishes)
        writer.close()
        return file, done

    return make


def later(row: AnyRow, origin: float) -> AnyRow:
    moved = [name for name in ("at", "origin", "begin", "end", "asked", "answered") if hasattr(row, name)]
    return replace(row, **{name: getattr(row, name) + origin for name in moved})
