"""How the processes of a plane log: lines for people, or one JSON object a line for machines."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import Annotated, Literal

import msgspec
from msgspec import Struct

from loki_rl.options import Help

Level = Literal["info", "debug"]


class LogOptions(Struct, frozen=True):
    """How the processes of a plane log."""

    folder: Annotated[
        str, Help("Keep the log of every process in this folder (default: it goes with the plane).", "--logs")
    ] = ""
    json_lines: Annotated[bool, Help("Log one JSON object a line.", "--log-json")] = False
    level: Annotated[Level, Help("debug also tells how every request ended.", "--log-level")] = "info"

    def flags(self) -> list[str]:
        """The same for the command line of a front end."""
        return ["--log-json"] if self.json_lines else []


class JsonLines(logging.Formatter):
    """time in UTC; what a record has under `fields` stands beside the rest."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname.lower(),
            "process": self._process,
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= getattr(record, "fields", {})
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line).decode()


def start(process: str, options: LogOptions) -> None:
    """Log to standard error from now on."""
    handler = logging.StreamHandler()
    plain = logging.Formatter(f"%(asctime)s {process} %(levelname)s %(message)s")
    handler.setFormatter(JsonLines(process) if options.json_lines else plain)
    logging.basicConfig(handlers=[handler], level=options.level.upper())
