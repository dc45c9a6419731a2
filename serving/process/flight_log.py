"""What is kept of what a node's actors do: rows in the file that all nodes of the plane append to, and its journal."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import BinaryIO

from loki_rl.core.effects import Effect
from loki_rl.core.messages import Event
from loki_rl.core.pipeline import Pipeline
from loki_rl.flight.file import Writer
from loki_rl.flight.rows import AnyRow
from loki_rl.flight.sifter import Sifter
from loki_rl.serving.plane import NodeSpec, PlaneError
from loki_rl.serving.transport.troubles import Troubles

log = logging.getLogger(__name__)

RECORDING = "recording"
JOURNAL_BUFFER = 1 << 16


class FlightLog:
    """A driver.Recorder. Where the file cannot be opened or written the recording ends, which is counted as a trouble;
    requests are served on. every_s: how long rows wait at most before they are written [s]."""

    def __init__(self, path: Path, pipeline: Pipeline, troubles: Troubles, every_s: float) -> None:
        self._path = path
        self._troubles = troubles
        self._writer: Writer | None = None
        self._sifter = Sifter(self._put, pipeline)
        try:
            self._writer = Writer(path, every_s)
        except OSError as error:
            self._end(error)

    def record(self, address: str, now: float, event: Event, effects: list[Effect]) -> None:
        """As Sifter.record, while there is a file."""
        if self._writer is not None:
            self._sifter.record(address, now, event, effects)

    def _put(self, row: AnyRow) -> None:
        if self._writer is not None:
            self._writer.put(row)

    def look(self, now: float) -> None:
        """Write what there is if it is time to; when nobody waits."""
        if self._writer is not None:
            try:
                self._writer.tick(now)
            except OSError as error:
                self._end(error)

    def close(self) -> None:
        """Write what there is."""
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()

    def _end(self, error: OSError) -> None:
        said = f"the recording {self._path} cannot be written and ends here; requests are served on: {error.strerror}"
        log.error("%s", said)
        self._troubles.record(RECORDING, said)
        if self._writer is not None:
            self._writer.drop()
            self._writer = None


def begin_journal(folder: Path, node: NodeSpec) -> BinaryIO:
    """The file of this life of a node. Raises PlaneError."""
    file = folder / f"{node.name}.{node.incarnation}.journal"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        return file.open("wb", buffering=JOURNAL_BUFFER)
    except OSError as error:
        raise PlaneError(f"the journal {file} cannot be written: {error}") from error
