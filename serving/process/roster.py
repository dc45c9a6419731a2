"""A plane as it stands: which life of every node is where, and what the others are told of it."""

from __future__ import annotations

import os
from pathlib import Path

from msgspec.structs import replace

from loki_rl.core.cluster import lose_worker
from loki_rl.core.messages import Event, number_of
from loki_rl.serving.folder import PRIVATE_FOLDER, claim
from loki_rl.serving.plane import NodeSpec, PlaneFile
from loki_rl.serving.process.launcher import Place
from loki_rl.serving.transport.listening import free_port
from loki_rl.serving.transport.mailbox import Mailbox
from loki_rl.serving.transport.wire import Gone, Letter


class Roster:
    """plane: as it is now. folder: run directory of the launcher's host; mailbox: the launcher's."""

    def __init__(self, plane: PlaneFile, folder: Path, mailbox: Mailbox) -> None:
        self.plane = plane
        self._folder = folder
        self._mailbox = mailbox
        self._claims: list[int] = []

    def post(self, addresses: list[str], event: Event) -> None:
        """Queue an event for actors."""
        for address in addresses:
            self._mailbox.post(self.plane.homes[address], Letter(address, event, ()), ())

    def make_folder(self) -> bool:
        """Whether somebody had removed the run folder; it is there again. Raises OSError."""
        if self._folder.is_dir():
            return False
        self._folder.mkdir(mode=PRIVATE_FOLDER)
        self._claims.append(claim(self._folder))
        self.plane.write(self._folder)
        return True

    def close(self) -> None:
        for one in self._claims:
            os.close(one)

    def settle(self, name: str, place: Place) -> None:
        """This life of a node has a place, which the others hear of, each as it is seen from there. Raises OSError."""
        known = self.plane.node(name)
        device = place.device or known.device
        node = replace(known, host=place.host, port=place.port, device=device, folder=place.folder)
        self._describe(node)
        self.plane.write(self._folder)
        self._tell_where(node)
        self._mailbox.flush()

    def succeed(self, node: NodeSpec, reason: str) -> None:
        """This life of a node is gone, and its workers with it; what is queued for it must not reach whoever listens there
        next. Where the next life is shows when it has a place. Raises OSError."""
        port = free_port(self.plane.address) if self.plane.address and node.stays else 0
        successor = replace(node, incarnation=node.incarnation + 1, host="", port=port, folder="")
        self._describe(successor)
        self._tell_where(successor)
        if node.is_worker:
            self.lose(successor, reason)
        self._mailbox.flush()

    def lose(self, node: NodeSpec, reason: str) -> None:
        """Its workers are not there."""
        for address in node.actors:
            for one in lose_worker(self.plane.options, number_of(address), reason):
                self.post([one.to], one.message)

    def _describe(self, node: NodeSpec) -> None:
        nodes = tuple(node if other.name == node.name else other for other in self.plane.nodes)
        self.plane = replace(self.plane, nodes=nodes)

    def _tell_where(self, node: NodeSpec) -> None:
        self._mailbox.forget(node.name, self.plane.endpoint(node, self._folder, ""))
        for other in self.plane.nodes:
            # Who has no place yet reads it in the plane when it begins.
            if other.name != node.name and self.plane.placed(other):
                self._mailbox.say(other.name, Gone(node.name, self.plane.endpoint(node, self._folder, other.host)))
