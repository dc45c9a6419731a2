"""The tie between a child process and its launcher: a pipe on standard input that closes when the launcher ends, however it
ends. Owns the watching; must not know what the process does."""

from __future__ import annotations

import os
import runpy
import signal
import sys
import threading
import time

# Time to stop in good order once nobody is there to see it.
GRACE_S = 3.0


def hold() -> None:
    """From now on, end this process when its standard input closes. PR_SET_PDEATHSIG would not do: it fires when the
    *thread* that started the process ends."""
    threading.Thread(target=_watch, name="tether", daemon=True).start()


def _watch() -> None:
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_S)
    os._exit(1)


def main() -> None:
    """python -m loki_rl.serving.tether MODULE ARGUMENTS: run another module on the tether."""
    hold()
    module = sys.argv[1]
    del sys.argv[0]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
