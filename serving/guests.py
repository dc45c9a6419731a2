"""The nodes that joined a running plane, as its launcher sees them. Owns their numbers, names and signs of life; must not
know processes, nor what actors do with the loss of a worker."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from loki_rl.core.messages import worker
from loki_rl.core.servers import Servers
from loki_rl.serving.loopback import LoopbackError, check_loopback
from loki_rl.serving.plane import NodeSpec, PlaneFile
from loki_rl.serving.wire import Alive, Control, Declined, Join, Joined, Known, Left, Lost, Welcome
from loki_rl.serving.workshop import device_of

SILENT_S = 3.0
MAX_WORKERS = 64

Say = Callable[[str, Control], None]
Learn = Callable[[str, str], None]
Gone = Callable[[NodeSpec, str, str], None]


class GuestError(ValueError):
    """A node cannot join; the message is one sentence for whoever started it."""


class Guest(Struct):
    """nodes: its worker processes by name. unaware: nodes of the plane that do not know of it yet. heard: last sign [s]."""

    nodes: dict[str, NodeSpec]
    unaware: set[str]
    heard: float


class Guests:
    """plane: whose nodes guests are told of, with the endpoints that guests reach them at. say, learn: of the launcher's
    mailbox. gone: what to do when a node is lost: (node, endpoint of its successor, reason)."""

    def __init__(self, plane: PlaneFile, say: Say, learn: Learn, gone: Gone) -> None:
        self.open: dict[str, Guest] = {}
        self._plane = plane
        self._say = say
        self._learn = learn
        self._gone = gone
        self._count = 0
        self._servers = Servers(plane.options)
        self._joined: Counter[int] = Counter()

    @property
    def workers(self) -> int:
        """Of all guests that are here now."""
        return sum(len(guest.nodes) for guest in self.open.values())

    def hear(self, word: Join | Known | Alive | Lost | Left, reached: dict[str, str], now: float) -> None:
        """reached: node of the plane -> endpoint for guests."""
        match word:
            case Join():
                self._join(word, now)
            case Known(name, node):
                self._known(name, node, reached)
            case Alive(name) if name in self.open:
                self.open[name].heard = now
                self._say(name, Alive(name))
            case Lost(name, node, reason, endpoint) if name in self.open:
                self._lost(self.open[name], node, reason, endpoint)
            case Left(name):
                self._lose(name, "its node has left")

    def watch(self, now: float) -> None:
        """Give up those that have not been heard of for too long."""
        for name in [name for name, guest in self.open.items() if now - guest.heard > SILENT_S]:
            self._lose(name, "its node is silent")

    def _join(self, join: Join, now: float) -> None:
        """Everybody is told of its workers before they start: a message for a worker that nobody knows would be lost."""
        self._count += 1
        name = f"guest-{self._count}"
        try:
            self._learn(name, check_loopback(join.endpoint))
            nodes = self._nodes(name, join)
        except (LoopbackError, GuestError) as error:
            self._say(name, Declined(str(error)))
            return
        peers = [node.name for node in self._plane.nodes if not node.is_worker]
        self.open[name] = Guest({node.name: node for node in nodes}, set(peers), now)
        for peer in peers:
            self._say(peer, Joined(name, [(node.name, node.tcp, list(node.actors)) for node in nodes]))

    def _nodes(self, name: str, join: Join) -> list[NodeSpec]:
        """Its workers' processes. Raises LoopbackError or GuestError."""
        if not 1 <= len(join.workers) <= MAX_WORKERS:
            raise GuestError(f"a node joins with 1 to {MAX_WORKERS} workers, not {len(join.workers)}")
        kind = self._kind(join.server_type)
        endpoints = [check_loopback(endpoint) for endpoint in join.workers]
        return [self._node(f"{name}-{place}", kind, endpoint) for place, endpoint in enumerate(endpoints)]

    def _node(self, name: str, kind: int, endpoint: str) -> NodeSpec:
        number = self._servers.joining(kind, self._joined[kind])
        self._joined[kind] += 1
        device = device_of(self._plane.options, self._plane.device, number)
        return NodeSpec(name, (worker(number),), tcp=endpoint, device=device)

    def _kind(self, wanted: str) -> int:
        """Position of a type of servers."""
        names = [kind.name for kind in self._servers.types]
        if wanted in names:
            return names.index(wanted)
        if names == [""]:
            raise GuestError(f"its servers are all alike, and there is no type '{wanted}'; leave --type out")
        said = f"there is no type '{wanted}'" if wanted else "the type of the node's servers is missing"
        raise GuestError(f"{said}; name one with --type: {', '.join(names)}")

    def _known(self, name: str, node: str, reached: dict[str, str]) -> None:
        guest = self.open.get(name)
        if guest is None or node not in guest.unaware:
            return
        guest.unaware.discard(node)
        if not guest.unaware:
            there = [replace(node, tcp=reached[node.name]) for node in self._plane.nodes if not node.is_worker]
            plane = replace(self._plane, nodes=(*there, *guest.nodes.values()), front="", journal=None)
            self._say(name, Welcome(name, msgspec.json.encode(plane)))

    def _lost(self, guest: Guest, node: str, reason: str, endpoint: str) -> None:
        """A worker's process ended; its successor listens at `endpoint`, if there will be one."""
        former = guest.nodes.get(node)
        if former is None:
            return
        try:
            successor = replace(former, incarnation=former.incarnation + 1, tcp=check_loopback(endpoint))
        except LoopbackError:
            del guest.nodes[node]
            self._gone(former, former.tcp, reason)
        else:
            guest.nodes[node] = successor
            self._gone(former, successor.tcp, reason)

    def _lose(self, name: str, reason: str) -> None:
        guest = self.open.pop(name, None)
        if guest is not None:
            for node in guest.nodes.values():
                self._gone(node, node.tcp, reason)
