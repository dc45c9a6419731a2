"""What the processes in front of a gateway have in common: their arguments, and the tie to a launcher. Knows no protocol."""

from __future__ import annotations

import argparse

from loki_rl.serving.observe import logs
from loki_rl.serving.process import parent_watch


def arguments(module: str, description: str | None, port: int) -> argparse.ArgumentParser:
    """port: where it listens if it is not told."""
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=description)
    parser.add_argument("--front", required=True, help="endpoint of the gateway's front, as ipc://PATH")
    parser.add_argument("--port", type=int, default=port)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--tethered", action="store_true", help="of a launcher: see serving.tether")
    parser.add_argument("--log-json", action="store_true", help="log one JSON object a line")
    return parser


def begin(name: str, options: argparse.Namespace) -> None:
    """Before anything else: end with the launcher, if it is one's own, and log as told."""
    if options.tethered:
        parent_watch.hold()
    logs.start(name, logs.LogOptions(json_lines=options.log_json))
