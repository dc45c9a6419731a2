"""The two models of a work load as every peer runs them: the same sessions, and around them the same adapters as ours. Owns
sessions and batches; must not know which server asks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from benchmarks.peers.servers.spec import StageSpec
from loki_rl.serving.engines.adapter import Adapter, Port, Prepared, Produced, SessionIO, adapter_class, alike

Array = npt.NDArray[Any]


class Null:
    """A model that takes float rows as sent: payloads of shape [rows, 16]."""

    def __init__(self, spec: StageSpec) -> None:
        self._session = session(spec.model)

    def run(self, payloads: Sequence[Array]) -> list[Array]:
        """One output per payload, of one run for all."""
        if len(payloads) == 1:
            return [self._session.run(None, {"x": payloads[0]})[0]]
        ends = np.cumsum([len(payload) for payload in payloads])
        return np.split(self._session.run(None, {"x": np.concatenate(payloads)})[0], ends[:-1])


class Adapted:
    """A model with its adapter."""

    def __init__(self, spec: StageSpec) -> None:
        self._session, self._batch = session(spec.model), spec.batch
        io = SessionIO(Path(spec.folder), _ports(self._session.get_inputs()), _ports(self._session.get_outputs()))
        self._adapter: Adapter = adapter_class(spec.adapter)(io, spec.options)
        self._names = [port.name for port in io.outputs]

    def run(self, payloads: Sequence[Array]) -> list[Produced]:
        """One result per payload, of as many runs as batches are needed."""
        produced: list[Produced] = []
        for start in range(0, len(payloads), self._batch):
            produced += self._run([self._adapter.prepare(payload) for payload in payloads[start : start + self._batch]])
        return produced

    def _run(self, items: list[Prepared]) -> list[Produced]:
        """As our own engine does it, those of one shape together: a short line costs less than a long one."""
        found: dict[int, Produced] = {}
        for places in alike([item.inputs for item in items]):
            found |= zip(places, self._together([items[place] for place in places]), strict=True)
        return [found[place] for place in range(len(items))]

    def _together(self, items: list[Prepared]) -> list[Produced]:
        inputs = {name: np.stack([item.inputs[name] for item in items]) for name in items[0].inputs}
        outputs = self._session.run(None, inputs)
        rows = [dict(zip(self._names, row, strict=True)) for row in zip(*outputs, strict=True)]
        return [self._adapter.finish(row, item.kept) for row, item in zip(rows, items, strict=True)]


class Detection(Adapted):
    """Pictures in, the crops of each out."""

    def crops(self, pictures: Sequence[Array]) -> list[list[Array]]:
        return [made.children[0] for made in self.run(pictures)]


class Recognition(Adapted):
    """Crops in, the JSON of what each reads out."""

    def texts(self, crops: Sequence[Array]) -> list[bytes]:
        return [made.output.tobytes() for made in self.run(crops) if made.output is not None]


def session(model: str) -> ort.InferenceSession:
    """As our own engine opens one: a thread each, since replicas share the cores."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.enable_mem_pattern = False
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _ports(rows: list[Any]) -> tuple[Port, ...]:
    return tuple(Port(row.name, tuple(row.shape), row.type) for row in rows)
