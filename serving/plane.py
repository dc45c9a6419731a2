"""What a plane consists of, as its launcher writes it down and its nodes read it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec import Struct

from loki_rl.core.messages import GATEWAY
from loki_rl.core.options import ClusterOptions
from loki_rl.decoding import UNREADABLE
from loki_rl.errors import UserError
from loki_rl.serving.folder import private
from loki_rl.serving.observe.logs import LogOptions
from loki_rl.serving.observe.span_options import SpanOptions
from loki_rl.serving.transport.addresses import bracketed
from loki_rl.serving.transport.curve import KeyPair

FILE = "plane.json"
LAUNCHER = "launcher"

EngineKind = Literal["emulated", "onnx"]
Layout = Literal["compact", "spread"]


class PlaneError(UserError):
    """A plane is described wrongly; the message is one sentence for the user."""


class NodeSpec(Struct, frozen=True):
    """One process. incarnation: rises with every start of it. device: where the models of a worker run, as in
    sessions.choose_device. host: address of the host that it is on, empty for the launcher's; port: where it also listens
    there for nodes of other hosts, 0 where it need not or has no place yet; folder: its run directory on another host."""

    name: str
    actors: tuple[str, ...]
    incarnation: int = 0
    device: str = ""
    host: str = ""
    port: int = 0
    folder: str = ""

    def endpoint(self, folder: Path) -> str:
        """For nodes of its host. folder: run directory of the launcher's host. Each life has an address of its own, so that
        what was meant for the former one never arrives."""
        return f"ipc://{self.folder or folder}/{self.name}.{self.incarnation}"

    @property
    def stays(self) -> bool:
        """Whether it is where the launcher is, whose front ends ask it."""
        return GATEWAY in self.actors

    @property
    def is_worker(self) -> bool:
        """Whether the plane can go on without this node."""
        return bool(self.actors) and all(address.startswith("worker:") for address in self.actors)

    @property
    def is_router(self) -> bool:
        return any(address.startswith("router:") for address in self.actors)


class PlaneFile(Struct, frozen=True, dict=True):
    """cluster: ClusterOptions as msgpack (JSON has no place for paths as keys). engine: what workers run. device: where,
    if the type of their server does not say ("cuda:0,1" deals workers out in turn). pipeline_file: where the models of an
    onnx engine are named. policy_factory: "module:function", called as f(policy, cluster, policy_options). front: endpoint
    for clients. journal: folder for one journal per node. recording: file of the flight recorder, which has a head already.
    history: file of what demand is like, which the controller's node keeps. logs: how processes log, and where. traces: of
    requests, and where they go. check: validate every actor after every burst (tests). memory: folder for large tensors (see
    shared_memory), empty if they are sent. address: of the launcher's host for other hosts, empty where there are none;
    port: where the launcher listens there; keys: of all nodes, for what they say to each other between hosts.
    """

    cluster: bytes
    nodes: tuple[NodeSpec, ...]
    front: str
    engine: EngineKind = "emulated"
    device: str = "cpu"
    pipeline_file: str = ""
    policy: str = "exact"
    policy_factory: str = "loki_rl.serving.controlling.policy:named_policy"
    policy_options: dict[str, Any] = {}
    journal: str | None = None
    recording: str | None = None
    history: str | None = None
    logs: LogOptions = LogOptions()
    traces: SpanOptions = SpanOptions()
    memory: str = ""
    check: bool = False
    address: str = ""
    port: int = 0
    keys: KeyPair | None = None

    @cached_property
    def options(self) -> ClusterOptions:
        return msgspec.msgpack.decode(self.cluster, type=ClusterOptions)

    @cached_property
    def homes(self) -> dict[str, str]:
        """Address of an actor -> name of its node."""
        return {address: node.name for node in self.nodes for address in node.actors}

    def node(self, name: str) -> NodeSpec:
        found = next((node for node in self.nodes if node.name == name), None)
        if found is None:
            raise PlaneError(f"no node '{name}' in this plane, only {', '.join(node.name for node in self.nodes)}")
        return found

    @property
    def launcher(self) -> NodeSpec:
        """As the nodes see it."""
        return NodeSpec(LAUNCHER, (), port=self.port)

    def endpoints(self, folder: Path, name: str = LAUNCHER) -> dict[str, str]:
        """Name of a node, and of the launcher -> address of its inbox, as the node `name` reaches it; folder: run directory
        of the launcher's host. Its own stands there as nodes of its host reach it."""
        here = "" if name == LAUNCHER else self.node(name).host
        return {node.name: self.endpoint(node, folder, here) for node in (*self.nodes, self.launcher)}

    def endpoint(self, node: NodeSpec, folder: Path, here: str) -> str:
        """Where a node is reached from the host `here`; empty while it has no place. folder: as of `endpoints`."""
        if not self.placed(node):
            return ""
        return node.endpoint(folder) if node.host == here else self.outside(node)

    def placed(self, node: NodeSpec) -> bool:
        """Whether this life of it has a host."""
        return bool(node.port) or not self.address

    def outside(self, node: NodeSpec) -> str:
        """Where a node is reached from other hosts; empty if it is not."""
        return f"tcp://{bracketed(node.host or self.address)}:{node.port}" if node.port else ""

    def write(self, folder: Path) -> None:
        """Replace the file in one step: a node that starts now reads the old one or the new one."""
        fresh = folder / f"{FILE}.new"
        with private(fresh) as stream:
            stream.write(msgspec.json.format(msgspec.json.encode(self), indent=1))
        fresh.replace(folder / FILE)

    @classmethod
    def read(cls, folder: Path) -> PlaneFile:
        try:
            return msgspec.json.decode((folder / FILE).read_bytes(), type=cls)
        except (OSError, *UNREADABLE) as error:
            raise PlaneError(f"{folder / FILE} cannot be read: {error}") from error


def pack_options(options: ClusterOptions) -> bytes:
    return msgspec.msgpack.encode(options)


def resolve(entry: str) -> Callable[..., Any]:
    """The function behind "module:function"."""
    module, colon, name = entry.partition(":")
    try:
        if not colon:
            raise ImportError("it must read module:function")
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise PlaneError(f"'{entry}' cannot be loaded: {error}") from error
    if not callable(found):
        raise PlaneError(f"'{entry}' is not a function")
    return found  # type: ignore[no-any-return]
