"""What actors ask for: every effect that a driver carries out, for plane, twin and journal alike."""

from __future__ import annotations

import msgspec
from msgspec import Struct

from loki_rl.core.messages import Cause, Event, Outcome
from loki_rl.core.plan import Snapshot
from loki_rl.core.requests.items import Family, Served


class Send(Struct, array_like=True, tag=True, gc=False):
    """Carry a message to an actor."""

    to: str
    message: Event


class Run(Struct, array_like=True, tag=True, gc=False):
    """Execute a batch on this worker's engine; BatchDone answers."""

    batch: int
    task: int
    variant: int
    families: list[Family]


class Load(Struct, array_like=True, tag=True, gc=False):
    """Make a model resident and warm on this worker's engine; Loaded answers."""

    task: int
    variant: int


class Unload(Struct, array_like=True, tag=True, gc=False):
    """Free a model on this worker's engine; nothing answers."""

    task: int
    variant: int


class Solve(Struct, array_like=True, tag=True, gc=False):
    """Ask the policy; Planned answers."""

    snapshot: Snapshot


class Reply(Struct, array_like=True, tag=True, gc=False):
    """Answer a client: the only reply of this request. latency_s since arrival; accuracy 0..1 (expected, of the variants
    that served it; 0 unless ok); leaves: the leaf items that ended well; missing: items dropped or unfinished; reason: why
    it is not ok, else empty; cause: of its first dropped item; retry_s: where there was no room, how long the client should
    wait before it asks again [s], 0 where asking again is no use."""

    key: int
    root: int
    outcome: Outcome
    latency_s: float
    accuracy: float
    leaves: list[Served]
    missing: int
    reason: str
    cause: Cause | None = None
    retry_s: float = 0.0


class Drop(Struct, array_like=True, tag=True, gc=False):
    """These items will not be worked on here any more: what is kept for them can go."""

    families: list[Family]


class Kill(Struct, array_like=True, tag=True, gc=False):
    """End the process of this life of a worker, whose batch is overdue beyond all bounds, and start it again. Its end is
    told as any other (WorkerGone)."""

    worker: int
    incarnation: int
    reason: str


Effect = Send | Run | Load | Unload | Solve | Reply | Drop | Kill

effects_decoder = msgspec.msgpack.Decoder(list[Effect])
