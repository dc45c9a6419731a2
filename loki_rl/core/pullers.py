"""What a router keeps of its workers: who pulls, and which batch is in whose hands. Owns these records; decides nothing."""

from __future__ import annotations

from loki_rl.core.messages import Item


class Puller:
    """A worker that pulls here. waiting: its unused credit; serial: of the last credit used; latest: its last batch."""

    __slots__ = ("batch", "incarnation", "latest", "order", "serial", "variant", "waiting")

    def __init__(self, incarnation: int, variant: int, batch: int) -> None:
        self.incarnation = incarnation
        self.variant = variant
        self.batch = batch
        self.serial = -1
        self.waiting: int | None = None
        self.order = 0
        self.latest = -1


class Lease:
    """A batch in a worker's hands."""

    __slots__ = ("expiry", "incarnation", "items", "variant", "worker")

    def __init__(self, worker: int, incarnation: int, variant: int, items: list[Item], expiry: float) -> None:
        self.worker = worker
        self.incarnation = incarnation
        self.variant = variant
        self.items = items
        self.expiry = expiry
