"""The process of a node whose host has a clock of its own, where that is not the launcher's: hosts of one machine have one.
Workers that are emulated wait by the kernel's timers, which this cannot set ahead."""

from __future__ import annotations

import time

from loki_rl.serving.plane import PlaneFile
from loki_rl.serving.process import node

AHEAD_S = 1000.0


def main() -> None:
    chosen = node.arguments(__name__).parse_args()
    spec = PlaneFile.read(chosen.folder).node(chosen.name)
    if spec.host and not spec.is_worker:
        here = time.monotonic
        time.monotonic = lambda: here() + AHEAD_S
    node.run(chosen.folder, chosen.name)


if __name__ == "__main__":
    main()
