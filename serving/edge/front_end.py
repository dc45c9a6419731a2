"""What the processes in front of a gateway have in common: their arguments, and the tie to a launcher. Knows no protocol."""

from __future__ import annotations

import argparse
import asyncio
import signal
import socket

from loki_rl.serving.observe import logs
from loki_rl.serving.process import parent_watch
from loki_rl.serving.security.guards import FILES, Guards
from loki_rl.serving.transport.listening import listen


def arguments(module: str, description: str | None, port: int) -> argparse.ArgumentParser:
    """port: where it listens if it is not told."""
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=description)
    parser.add_argument("--front", required=True, help="endpoint of the gateway's front, as ipc://PATH")
    parser.add_argument("--port", type=int, default=port)
    parser.add_argument("--host", default="127.0.0.1")
    for name in FILES:
        parser.add_argument(f"--{name.replace('_', '-')}", default="", help="as loki-rl serve has it")
    parser.add_argument("--tethered", action="store_true", help="to a launcher, which holds the port")
    parser.add_argument("--log-json", action="store_true", help="log one JSON object a line")
    return parser


def guards(options: argparse.Namespace) -> Guards:
    return Guards(**{name: getattr(options, name) for name in FILES})


def listening(name: str, parser: argparse.ArgumentParser, options: argparse.Namespace) -> socket.socket:
    """Where it is told to listen; ends the process where it cannot."""
    try:
        return listen(options.host, options.port, options.tethered)
    except (OSError, OverflowError) as error:
        parser.exit(2, f"{name}: cannot listen on {options.host}:{options.port}: {error}\n")


def stopped(tethered: bool) -> asyncio.Event:
    """Set once this process is told to stop; meanwhile its launcher, if it has one, is told that the loop turns."""
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    if tethered:
        parent_watch.pulse(loop)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return stop


def begin(name: str, options: argparse.Namespace) -> None:
    """Before anything else: end with the launcher, if it is one's own, and log as told."""
    if options.tethered:
        parent_watch.hold()
    logs.start(name, logs.LogOptions(json_lines=options.log_json))
