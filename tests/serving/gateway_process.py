"""A gateway in a process of its own that tests can kill: `python -m tests.serving.gateway_process ENDPOINT`. Requests with a
deadline beyond HOLD_S stay open, others are answered at once."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType

HOLD_S = 5.0
ROOT = Path(__file__).resolve().parents[2]


class GatewayProcess:
    """`with GatewayProcess(endpoint) as gateway: ... gateway.kill()`"""

    def __init__(self, endpoint: str) -> None:
        command = [sys.executable, "-m", "tests.serving.gateway_process", endpoint]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT)
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"serving\n"

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def __enter__(self) -> GatewayProcess:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.kill()


def main() -> None:
    from tests.serving.conftest import Ending, Responder

    running = Responder(sys.argv[1])
    running.script = lambda entered: None if entered.timeout_s > HOLD_S else Ending()
    print("serving", flush=True)  # noqa: T201  (what the test waits for)
    signal.pause()


if __name__ == "__main__":
    main()
