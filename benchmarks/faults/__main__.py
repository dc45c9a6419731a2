"""Faults in a plane of real processes at work: what they cost its clients, and how soon it is whole again.

poison: requests that hang or abort their worker, beside innocent ones. kill, stop: a worker's process is killed or stands
still (traffic, each of 20 emulated workers in a process of its own), at .8 of what the others can serve. outage: router,
gateway and controller are killed, at load .6, with clients of both protocols. With many neighbours on this machine a run
says more about those than about the plane, so load average and foreign processor time are printed.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable

from benchmarks.faults import lost_workers, outages, planes, poison
from benchmarks.faults.checks import Check, show
from benchmarks.host import load_average

PARTS = ("poison", "kill", "stop", "outage")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.faults", description=__doc__)
    parser.add_argument("--only", choices=PARTS, nargs="+", default=list(PARTS))
    parser.add_argument("--kills", type=int, default=50, help="of workers")
    parser.add_argument("--stops", type=int, default=20, help="of workers")
    parser.add_argument("--outages", type=int, default=20, help="of each of router, gateway and controller")
    args = parser.parse_args()
    parts: dict[str, Callable[[], list[Check]]] = {
        "poison": poison.poison,
        "kill": lambda: lost_workers.kill(args.kills),
        "stop": lambda: lost_workers.stop(args.stops),
        "outage": lambda: outages.outages(args.outages),
    }
    logging.getLogger("loki_rl").setLevel(logging.ERROR)  # every fault would be a line
    print(f"traffic, {planes.SERVERS} servers, {planes.LOAD_S:g} s a load; {load_average()}")
    print(f"plan: {planes.told(planes.spared())}", flush=True)
    checks: list[Check] = []
    for part in args.only:
        checks += parts[part]()
    show(checks)


if __name__ == "__main__":
    main()
