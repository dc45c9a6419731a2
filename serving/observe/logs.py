"""How the processes of a plane log: lines for people, or one JSON object a line for machines."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import Literal

import msgspec
from msgspec import Struct

Level = Literal["info", "debug"]
LEVELS: tuple[Level, ...] = ("info", "debug")


class LogOptions(Struct, frozen=True):
    """folder: where every process keeps its log (empty: the run directory, which goes with the plane). as_json: one JSON
    object a line. level: debug also tells how each request ended."""

    folder: str = ""
    as_json: bool = False
    level: Level = "info"

    def flags(self) -> list[str]:
        """The same for the command line of a front end."""
        return ["--log-json"] if self.as_json else []


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
    handler.setFormatter(JsonLines(process) if options.as_json else plain)
    logging.basicConfig(handlers=[handler], level=options.level.upper())
