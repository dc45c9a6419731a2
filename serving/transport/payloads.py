"""The payload frames of one actor's items: which to keep, which go along with a message, when to let go. Tensors never
enter the core."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from loki_rl.core.effects import Reply
from loki_rl.core.gateway import Gateway
from loki_rl.core.messages import Arrived, BatchDone, Ended, Event, Execute, Result, Submit
from loki_rl.core.pipeline import Pipeline, root_of
from loki_rl.core.requests.items import Family, members
from loki_rl.serving.transport.shared_memory import GATEWAY_KEEPS, SharedMemory, of_task
from loki_rl.serving.transport.wire import Frame, WireError

Attached = tuple[Sequence[int], Sequence[Frame]]

NOTHING: Attached = ((), ())


class Payloads(Protocol):
    """What a driver asks around each event. Frames carry the id of their item wherever they go (with Arrived: the key of
    their request)."""

    def arrive(self, event: Event, ids: Sequence[int], frames: Sequence[Frame], /) -> None:
        """These came along with an event that the actor is about to handle."""

    def attach(self, message: Event) -> Attached:
        """What goes along with a message that the actor sends because of this event."""

    def drop(self, families: list[Family], /) -> None:
        """The actor works on these items no more."""

    def ended(self) -> None:
        """The event is done; what came along with a refused result goes with it."""

    def __len__(self) -> int:
        """Frames held; 0 when nothing is in flight."""


class RouterPayloads:
    """held: frames of queued and leased items; a lease may be given a second time, so they stay until Drop. staged: frames
    of the result being handled, which the router may still refuse. memory: where large ones are."""

    def __init__(self, pipeline: Pipeline, task: int, memory: SharedMemory) -> None:
        self.held: dict[int, Frame] = {}
        self.staged: dict[int, Frame] = {}
        self._pipeline = pipeline
        self._task = task
        self._memory = memory
        self._owner = of_task(task)

    def arrive(self, event: Event, ids: Sequence[int], frames: Sequence[Frame]) -> None:
        (self.staged if type(event) is Result else self.held).update(zip(ids, frames, strict=True))

    def attach(self, message: Event) -> Attached:
        if self.held or self.staged:
            match message:
                case Execute():
                    return pick(self.held, members(self._pipeline, self._task, message.families))
                case Submit() if self.staged:
                    # All child tasks number their items alike.
                    child = self._pipeline.children[self._task][0]
                    return take(self.staged, members(self._pipeline, child, message.families))
                case Ended() if self.staged:
                    return take(self.staged, members(self._pipeline, self._task, message.families))
        return NOTHING

    def drop(self, families: list[Family]) -> None:
        if self.held:
            for item in members(self._pipeline, self._task, families):
                frame = self.held.pop(item, None)
                if frame is not None:
                    self._memory.free(frame, self._owner)

    def ended(self) -> None:
        if self.staged:
            for frame in self.staged.values():
                for owner in (GATEWAY_KEEPS, *map(of_task, self._pipeline.children[self._task])):
                    self._memory.free(frame, owner)
            self.staged.clear()

    def __len__(self) -> int:
        return len(self.held) + len(self.staged)


class WorkerPayloads:
    """batches: frames of the batches not yet running. staged: what the engine made of the batch being reported."""

    def __init__(self) -> None:
        self.batches: dict[int, dict[int, Frame]] = {}
        self.staged = NOTHING

    def arrive(self, event: Event, ids: Sequence[int], frames: Sequence[Frame]) -> None:
        if type(event) is Execute:
            self.batches[event.batch] = dict(zip(ids, frames, strict=True))
        elif type(event) is BatchDone:
            self.staged = (ids, frames)

    def attach(self, message: Event) -> Attached:
        if type(message) is not Result or self.batches.pop(message.batch, None) is not None:
            # A batch that is still here was not run: it goes back, and its router has kept the frames.
            return NOTHING
        return self.staged

    def take(self, batch: int) -> dict[int, Frame]:
        """The frames of a batch that begins to run."""
        return self.batches.pop(batch, {})

    def drop(self, families: list[Family]) -> None:
        """A worker keeps no single items."""

    def ended(self) -> None:
        self.staged = NOTHING

    def __len__(self) -> int:
        return sum(map(len, self.batches.values())) + len(self.staged[0])


class GatewayPayloads:
    """requests: key -> frame of a request in flight; every entry item of the request carries it, also when it is sent again.
    outputs: request in flight -> frames of its finished leaves; what comes after the reply is let go. memory: where large
    ones are."""

    def __init__(self, gateway: Gateway, memory: SharedMemory) -> None:
        self.requests: dict[int, Frame] = {}
        self.outputs: dict[int, dict[int, Frame]] = {}
        self._gateway = gateway
        self._memory = memory

    def arrive(self, event: Event, ids: Sequence[int], frames: Sequence[Frame]) -> None:
        if type(event) is Arrived:
            self.requests.update(zip(ids, frames, strict=True))
            return
        for item, frame in zip(ids, frames, strict=True):
            kept = self.outputs.get(root_of(item))
            if kept is None:
                self._memory.free(frame, GATEWAY_KEEPS)
            else:
                kept[item] = frame

    def attach(self, message: Event) -> Attached:
        if type(message) is not Submit or not self.requests:
            return NOTHING
        ids: list[int] = []
        frames: list[Frame] = []
        pipeline = self._gateway.pipeline
        for family in message.families:
            root = root_of(family.id)
            frame = self.requests.get(self._gateway.roots[root].key)
            if frame is not None:
                self.outputs.setdefault(root, {})
                # All entry tasks number their items alike.
                ids += pipeline.members(pipeline.entries[0], family.id, family.count)
                frames += [frame] * family.count
        return ids, frames

    def answer(self, reply: Reply) -> list[Frame | memoryview]:
        """The outputs of a request, in the order of its leaves; none are kept. Either every leaf has one or none. Clients
        get them themselves, wherever they are."""
        if self.requests:
            payload = self.requests.pop(reply.key, None)
            if payload is not None:
                self._memory.free(payload, GATEWAY_KEEPS)
        kept = self.outputs.pop(reply.root, {})
        if not kept:
            return []
        pipeline = self._gateway.pipeline
        wanted = [kept[item] for leaf in reply.leaves for item in pipeline.members(leaf.task, leaf.id, leaf.count)]
        outputs = [self._read(frame) for frame in wanted]
        self._free(kept)
        return outputs

    def drop(self, families: list[Family]) -> None:
        """Requests that others have taken the place of."""
        for family in families:
            self._free(self.outputs.pop(root_of(family.id), {}))

    def _read(self, frame: Frame) -> Frame | memoryview:
        """One that is gone, which nobody but an outsider can have removed, is an empty output."""
        try:
            return self._memory.read(frame)
        except WireError:
            return b""

    def _free(self, frames: Mapping[int, Frame]) -> None:
        for frame in frames.values():
            self._memory.free(frame, GATEWAY_KEEPS)

    def ended(self) -> None:
        """Payloads are let go with the answer."""

    def __len__(self) -> int:
        return len(self.requests) + len(self.outputs)


def take(frames: dict[int, Frame], ids: list[int]) -> Attached:
    """As pick, and they are kept no longer."""
    found = [item for item in ids if item in frames]
    return found, [frames.pop(item) for item in found]


def pick(frames: Mapping[int, Frame], ids: list[int]) -> Attached:
    """Those of the items that have a frame, with it."""
    found = [item for item in ids if item in frames]
    return found, [frames[item] for item in found]
