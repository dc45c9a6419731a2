"""A plane on this host: laid out, started, and stopped in order."""

from __future__ import annotations

import logging
import os
import resource
import secrets
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any

from msgspec.structs import replace

from loki_rl.core.messages import CONTROLLER, GATEWAY, Drain
from loki_rl.core.options import ClusterOptions
from loki_rl.errors import FailureError, UserError
from loki_rl.serving.folder import PRIVATE_FOLDER, RunFolder, base_folder, memory_folder
from loki_rl.serving.observe.logs import LogOptions
from loki_rl.serving.observe.span_options import SpanError, SpanOptions, check_spans
from loki_rl.serving.plane import EngineKind, Layout, PlaneFile, pack_options
from loki_rl.serving.process.child import python
from loki_rl.serving.process.launcher import Launcher, LocalLauncher
from loki_rl.serving.process.layout import EMULATED_HOSTS, nodes_of, reachable
from loki_rl.serving.process.supervisor import Supervisor
from loki_rl.serving.security.guards import Guards, check_addresses
from loki_rl.serving.transport.addresses import bracketed, native_server
from loki_rl.serving.transport.listening import hold
from loki_rl.serving.transport.wire import Bye, Leave

log = logging.getLogger(__name__)

HTTP, GRPC, NATIVE = "http", "grpc", "native"
NODE = ("loki_rl.serving.process.node",)
# Open files of a process: its own beside those that are open already, and what one connection to another process of the
# plane takes at most.
OWN_FILES, FILES_EACH = 14, 4
# Longest an orderly stop may take per kind of process, before it is forced.
STOP_S = 10.0
POLL_S = 0.02
# How often it is asked, while nothing comes, whether the time to start is over.
LOOK_S = 0.5


class LaunchError(FailureError):
    """The plane did not start, or one of its processes failed; the message is one sentence for the user."""


class LocalPlane:
    """`with LocalPlane(options, engine="emulated", policy="exact") as plane: Client(plane.front) ...`

    native: tcp://HOST:PORT for native clients, beside the endpoint in the run directory. http_port, grpc_port: answer HTTP
    and gRPC there too, on http_host, HTTP with http_processes of them. Of a port 0 a free one is taken, which then stands in
    these three. guards: who may come, as hosts that others can reach need it.
    policy_factory, policy_options, pipeline_file, device, journal, recording, history, logs, traces, check: as in PlaneFile.
    beside: name -> module and arguments of a process that the plane does not need. layout, worker_processes: as in nodes_of.
    launcher: what starts the nodes' processes (default: all on this host); node: what such a process runs, as in Supervisor.
    start_s: longest wait for all nodes to be up and the first plan's models to be loaded, beside what is compiled after an
    install; later, for a process that is started again. byes: after the end, what each node said that stopped in good
    order. Entering raises LaunchError.
    """

    def __init__(
        self,
        options: ClusterOptions,
        *,
        engine: EngineKind = "emulated",
        pipeline_file: str = "",
        device: str = "cpu",
        policy: str = "exact",
        policy_options: dict[str, Any] | None = None,
        policy_factory: str = "loki_rl.serving.controlling.policy:named_policy",
        native: str = "",
        http_port: int | None = None,
        http_host: str = "127.0.0.1",
        http_processes: int = 1,
        grpc_port: int | None = None,
        guards: Guards | None = None,
        journal: Path | None = None,
        recording: Path | None = None,
        beside: Mapping[str, Sequence[str]] | None = None,
        history: Path | None = None,
        logs: LogOptions | None = None,
        traces: SpanOptions | None = None,
        layout: Layout = "spread",
        worker_processes: int = EMULATED_HOSTS,
        start_s: float = 60.0,
        launcher: Launcher | None = None,
        node: Sequence[str] = NODE,
        check: bool = False,
    ) -> None:
        self._start_s = start_s
        self._launcher = launcher or LocalLauncher()
        self._node = node
        self._host = http_host
        self.http_port = http_port
        self._http_processes = http_processes
        self.grpc_port = grpc_port
        self.native = native
        self._guards = guards or Guards()
        self._beside = {name: python(*command) for name, command in (beside or {}).items()}
        self._logs = logs or LogOptions()
        self._settings: dict[str, Any] = {
            "cluster": pack_options(options),
            "nodes": nodes_of(options, engine, device, worker_processes, layout),
            "engine": engine,
            "pipeline_file": pipeline_file,
            "device": device,
            "policy": policy,
            "policy_options": policy_options or {},
            "policy_factory": policy_factory,
            "journal": None if journal is None else str(journal.absolute()),
            "recording": None if recording is None else str(recording.absolute()),
            "history": None if history is None else str(history.absolute()),
            "logs": self._logs,
            "traces": replace(traces or SpanOptions(), plane=secrets.randbits(53)),
            "check": check,
        }
        self._supervisor: Supervisor | None = None
        self._held: list[socket.socket] = []
        self.byes: dict[str, Bye] = {}
        self._drain_s = 2 * options.pipeline.slo_s if options.grace_s is None else options.pipeline.slo_s + options.grace_s

    def __enter__(self) -> LocalPlane:
        try:
            self._folder = RunFolder()
        except OSError as error:
            raise LaunchError(f"no run folder can be made in {base_folder()}: {error}; see XDG_RUNTIME_DIR") from None
        self._memory = memory_folder() if self._launcher.shares_memory else None
        try:
            self._launch()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    @property
    def front(self) -> str:
        """Endpoint for native clients on this host."""
        return f"ipc://{self._folder.path}/front"

    @property
    def failure(self) -> str:
        """Why the plane cannot go on, or empty."""
        return "" if self._supervisor is None else self._supervisor.failure

    @property
    def warm(self) -> bool:
        """Whether a plan has been in force with its models loaded."""
        return self._supervisor is not None and self._supervisor.warm

    @property
    def absent(self) -> set[str]:
        """Nodes that no host has room for."""
        return set() if self._supervisor is None else set(self._supervisor.absent)

    @property
    def restarted(self) -> int:
        """How often a process was started again."""
        return 0 if self._supervisor is None else self._supervisor.restarted

    @property
    def ended(self) -> list[str]:
        """Which processes ended unexpectedly, and what they said last: the latest ones, oldest first."""
        return [] if self._supervisor is None else list(self._supervisor.ended)

    @property
    def pids(self) -> dict[str, int]:
        """Process of each node that is a child of this one."""
        children = {} if self._supervisor is None else self._supervisor.children
        return {name: child.pid for name, child in children.items() if child.pid}

    def check(self) -> None:
        """Raise LaunchError if the plane cannot go on."""
        if self.failure:
            raise LaunchError(self.failure)

    def leave(self) -> None:
        """Tell clients to go elsewhere (not ready); those that come are still served."""
        if self._supervisor is not None:
            self._supervisor.say(GATEWAY, Leave())

    def drain(self) -> None:
        """Refuse new requests and wait for the end of those in flight, so that all are accounted for."""
        supervisor = self._supervisor
        if supervisor is not None and supervisor.warm and not supervisor.failure:
            supervisor.say(GATEWAY, Leave())
            supervisor.tell([GATEWAY], Drain())
            supervisor.wait(lambda: supervisor.idle, self._drain_s + 1.0)

    # -- start --------------------------------------------------------------------------------------------------------

    def _launch(self) -> None:
        folder = self._folder.path
        _make(self._logs.folder)
        try:
            check_spans(self._settings["traces"])
        except SpanError as error:
            raise LaunchError(str(error)) from None
        memory = "" if self._memory is None else str(self._memory.path)
        host = None if (self.http_port, self.grpc_port) == (None, None) else self._host
        try:
            plane = reachable(PlaneFile(front=self.front, memory=memory, **self._settings), self._launcher.address)
            bare = check_addresses(self._guards, host, self.native)
            self._guards.check_files()
        except UserError as error:
            raise LaunchError(str(error)) from None
        self._nodes = plane.nodes
        for one in bare:
            log.warning("listening on %s without TLS or without keys: whoever reaches it can use and stop it", one)
        self._commands = self._front_ends()
        _check_files(len(self._nodes) + len(self._commands) + len(self._beside))
        try:
            plane.write(folder)
        except OSError as error:
            raise LaunchError(f"the plane cannot be written down in {folder}: {error}") from None
        supervisor = self._supervisor = Supervisor(
            folder, plane, self._node, self._commands, self._start_s, self._launcher, self._beside
        )
        supervisor.start()
        began = time.monotonic()
        if not self._in_time(supervisor, lambda: not self._missing(supervisor), began):
            self._give_up(self._without(supervisor))
        if not self._in_time(supervisor, lambda: supervisor.warm, began):
            self._give_up(f"no plan was in force with its models loaded ({supervisor.last_words(CONTROLLER)})")
        deadline = self._deadline(supervisor, began)
        # Front ends have no inbox, so they cannot say when they are up.
        if self.http_port is not None:
            # One behind TLS may want a certificate from whoever asks.
            self._wait_for(deadline, self._host, self.http_port, _listens if self._guards.tls_cert else _ready)
        if self.grpc_port is not None:
            self._wait_for(deadline, self._host, self.grpc_port, _listens)
        if self.native:
            self._wait_for(deadline, *native_server(self.native), _listens)

    def _missing(self, supervisor: Supervisor) -> list[str]:
        """Nodes that are waited for: all but workers without a host, as long as others have one."""
        workers = {node.name for node in self._nodes if node.is_worker}
        spared = workers & supervisor.absent if workers - supervisor.absent else set()
        return sorted(node.name for node in self._nodes if node.name not in supervisor.up | spared)

    def _without(self, supervisor: Supervisor) -> str:
        """What is said of a plane that lacks nodes."""
        missing = self._missing(supervisor)
        waiting = ", ".join(name for name in missing if supervisor.waits(name))
        if waiting:
            return f"no host of the cluster has room for {waiting}"
        return f"{', '.join(missing)} did not come up ({supervisor.last_words(missing[0])})"

    def _deadline(self, supervisor: Supervisor, began: float) -> float:
        """By when the plane has to be there, as far as is known: what its nodes compile does not count."""
        return began + self._start_s + supervisor.compile_time.seconds(time.monotonic())

    def _in_time(self, supervisor: Supervisor, done: Callable[[], bool], began: float) -> bool:
        """Wait until it is done, the plane has failed, or time is up; whether it is done."""
        while not (there := supervisor.wait(done, LOOK_S)) and not supervisor.failure:
            if time.monotonic() > self._deadline(supervisor, began):
                break
        return there

    def _wait_for(self, deadline: float, host: str, port: int, answers: Callable[[str, int], bool]) -> None:
        supervisor = self._supervisor
        assert supervisor is not None
        while not answers(_reached(host), port):
            supervisor.wait(lambda: False, POLL_S)
            if supervisor.failure or time.monotonic() > deadline:
                self._give_up(f"nobody answers on {host}:{port}")

    def _front_ends(self) -> dict[str, list[str]]:
        """Name -> command. Raises LaunchError where a port is taken."""
        commands: dict[str, list[str]] = {}
        if self.http_port is not None:
            command, self.http_port = self._front_end("loki_rl.serving.edge.http", self._host, self.http_port)
            names = [HTTP, *(f"{HTTP}-{number}" for number in range(1, self._http_processes))]
            commands |= dict.fromkeys(names, command)
        if self.grpc_port is not None:
            if not all(map(find_spec, ("grpc", "tritonclient"))):
                raise LaunchError("answering gRPC needs the extra loki-rl[grpc]; install it, or leave the gRPC port out")
            commands[GRPC], self.grpc_port = self._front_end("loki_rl.serving.edge.rpc", self._host, self.grpc_port)
        if self.native:
            host, port = native_server(self.native)
            commands[NATIVE], port = self._front_end("loki_rl.serving.edge.native_proxy", host, port)
            self.native = f"tcp://{bracketed(host)}:{port}"
        return commands

    def _front_end(self, module: str, host: str, port: int) -> tuple[list[str], int]:
        """Its command, and the port that is held for it from now on."""
        try:
            self._held.append(hold(host, port))
        except (OSError, OverflowError) as error:
            raise LaunchError(f"cannot listen on {host}:{port}: {error}; choose another address or port") from None
        port = self._held[-1].getsockname()[1]
        where = ["--front", self.front, "--host", host, "--port", str(port), *self._guards.flags()]
        return python(module, "--tethered", *where, *self._logs.flags()), port

    def _give_up(self, what: str) -> None:
        self.check()
        raise LaunchError(f"{what} within {self._start_s:g} s")

    # -- stop ---------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Let requests in flight end, stop all processes in the order of the data's way, remove the run directory."""
        self.drain()
        supervisor, self._supervisor = self._supervisor, None
        if supervisor is not None:
            self._stop(supervisor)
        for bound in self._held:
            bound.close()
        self._held.clear()
        self._folder.close()
        if self._memory is not None:
            self._memory.close()

    def _stop(self, supervisor: Supervisor) -> None:
        for names in self._stages():
            supervisor.stop(names, STOP_S)
        supervisor.close()
        self.byes = supervisor.byes

    def _stages(self) -> list[list[str]]:
        routers = [node.name for node in self._nodes if node.is_router and node.name != GATEWAY]
        workers = [node.name for node in self._nodes if node.is_worker]
        # The last answers pass through the proxy when the gateway has written them.
        passing = [NATIVE] if NATIVE in self._commands else []
        asking = [name for name in self._commands if name not in passing]
        return [asking, [GATEWAY], passing, routers, workers, [CONTROLLER], [*self._beside]]


def _check_files(processes: int) -> None:
    """Where too few files may be open, libzmq would end a process without a word."""
    least = len(os.listdir("/proc/self/fd")) + OWN_FILES + FILES_EACH * processes
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if allowed != resource.RLIM_INFINITY and allowed < least:
        raise LaunchError(f"a process may open {allowed} files here, but this plane needs {least}; see 'ulimit -n'")


def _make(folder: str) -> None:
    try:
        if folder:
            Path(folder).mkdir(mode=PRIVATE_FOLDER, parents=True, exist_ok=True)
    except OSError as error:
        raise LaunchError(f"the logs cannot be kept in {folder}: {error}") from None


def _reached(host: str) -> str:
    """The address at which a server that listens on `host` is reached from here."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)


def _ready(host: str, port: int) -> bool:
    """Whether an HTTP process answers and has found the gateway ready."""
    connection = HTTPConnection(host, port, timeout=1.0)
    try:
        connection.request("GET", "/v2/health/ready")
        return connection.getresponse().status == HTTPStatus.OK
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()


def _listens(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=1.0).close()
    except OSError:
        return False
    return True
