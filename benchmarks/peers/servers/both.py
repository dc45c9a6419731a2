"""Both models of a work load in one process, one request at a time. Must not know which server asks."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.peers.servers import oip
from benchmarks.peers.servers.spec import Spec
from benchmarks.peers.servers.stages import Array, Detection, Null, Recognition


def answer_of(spec: Spec) -> Callable[[Array], tuple[bytes, int]]:
    """What a request's tensor is answered with, and the length of its header."""
    if spec.kind == "null":
        first, second = (Null(stage) for stage in spec.stages)
        return lambda tensor: oip.floats("null", second.run(first.run([tensor]))[0])
    detection, recognition = Detection(spec.stages[0]), Recognition(spec.stages[1])
    return lambda picture: oip.elements("reading", recognition.texts(detection.crops([picture])[0]))
