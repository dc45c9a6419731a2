"""What a peer's server is told: one JSON file. Read by the peer's own Python, which has msgspec and none of our other
packages."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct

# What a chain of null models, and a picture's readings, are called on the wire.
Kind = Literal["null", "reading"]


class StageSpec(Struct, frozen=True):
    """One model. folder: where files beside it lie. batch: most items of one run. adapter: "module:Class", none for a model
    that takes tensors as sent."""

    model: str
    folder: str
    batch: int
    adapter: str = ""
    options: dict[str, object] = {}


class Spec(Struct, frozen=True):
    """replicas: of each stage. timeout_s: how long a request may take, where the peer can be
    told. port: of HTTP."""

    kind: Kind
    stages: tuple[StageSpec, StageSpec]
    replicas: int
    timeout_s: float
    port: int


def read_spec() -> Spec:
    """The file that this process was called with."""
    parser = argparse.ArgumentParser()
    parser.add_argument("spec", type=Path)
    return msgspec.json.decode(parser.parse_args().spec.read_bytes(), type=Spec)
