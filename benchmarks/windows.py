"""What policies cost on windows of real and generated demand, in the event twin: *traffic*, 20 servers, loads of 5 s, at a
mean the best models can serve and at 60 % of what the cheapest can. Writes one line of JSON a run and goes on where it
stopped; prints a table per family. benchmarks/windows.jsonl holds the costs at commit 12d835f, to compare with.

    python -m benchmarks.windows --traces FOLDER --out costs.jsonl [--windows N] [--levels 131] [--policies exact]
    python -m benchmarks.windows --table costs.jsonl
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from msgspec import Struct
from msgspec.structs import replace

from loki_rl.runs.options import RunOptions
from loki_rl.runs.run import run_twin
from loki_rl.traces.generate import generate
from loki_rl.traces.trace import load_trace, save_trace

WINDOW_S, WINDOWS, SERVERS, LOAD_S = 300, 6, 20, 5.0
LEVELS = (131.0, 1070.0)
POLICIES = ("exact", "forecast", "ppo", "clairvoyant", "loki", "static", "hardware")
# File -> the most that its time is compressed; less where six windows would overlap.
REAL = {
    "twitter_2021_day01": 10.0,
    "twitter_2021_day06": 10.0,
    "nasa_http_1995_jul10-14": 96.0,
    "worldcup98_may25-jun19": 288.0,
    "azure_functions_2019_500f": 60.0,
    "azure_llm_code_2023.arrivals": 8.0,
    "servegen_m-large_2025": 120.0,
    "servegen_mm-image_2025": 120.0,
    "nab_elb_requests_2014": 300.0,
    "alibaba_genai_2024_nov": 3000.0,
}
KINDS = ("bursts", "flash_crowd", "mmpp", "steps")
BASE_RPS = 100.0


class Window(Struct, frozen=True):
    """One window of demand; the policy of its options is still open."""

    family: str
    number: int
    level: float
    options: RunOptions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--traces", type=Path, help="folder of the real traces: NAME.csv.gz, also of those that ship")
    parser.add_argument("--out", type=Path, default=Path("costs.jsonl"))
    parser.add_argument("--windows", type=int, default=WINDOWS, help="of each family and level")
    parser.add_argument("--levels", nargs="+", type=float, default=LEVELS, help="mean requests/s")
    parser.add_argument("--policies", nargs="+", default=POLICIES)
    parser.add_argument("--table", type=Path, help="only print the table of this file")
    given = parser.parse_args()
    if given.table is None:
        with TemporaryDirectory() as folder:
            play(windows(given.traces, Path(folder), given.levels, given.windows), given.policies, given.out)
    show(given.table or given.out)


def windows(traces: Path | None, folder: Path, levels: Iterable[float], most: int) -> Iterator[Window]:
    for level in levels:
        for number in range(most):
            for family in KINDS:
                path = folder / f"{family}-{number}.csv.gz"
                if not path.exists():
                    save_trace(generate(family, WINDOW_S, BASE_RPS, number + 1), path)
                yield Window(family, number, level, options(path, number, level))
            for family, compress in REAL.items():
                if traces is not None:
                    yield cut(traces / f"{family}.csv.gz", family, compress, number, level)


def cut(path: Path, family: str, compress: float, number: int, level: float) -> Window:
    """The window in the middle of one of six equal parts."""
    trace = load_trace(path)
    part = (trace.to_s - trace.from_s) / WINDOWS
    compress = min(compress, part / WINDOW_S)
    start = trace.from_s + part * (number + 0.5) - compress * WINDOW_S / 2
    whole = options(path, number, level)
    end = min(start + compress * WINDOW_S, trace.to_s)  # the last window may end with the trace
    return Window(family, number, level, replace(whole, compress=compress, from_s=start, to_s=end))


def options(path: Path, number: int, level: float) -> RunOptions:
    return RunOptions("traffic", str(path), "", servers=SERVERS, seed=number, load_s=LOAD_S, mean_rps=level)


def play(found: Iterable[Window], policies: Iterable[str], out: Path) -> None:
    known = {(row["family"], row["window"], row["level"], row["policy"]) for row in rows(out)}
    for window in found:
        for policy in policies:
            if (window.family, window.number, window.level, policy) not in known:
                with out.open("a") as file:
                    file.write(json.dumps(run(window, policy)) + "\n")


def run(window: Window, policy: str) -> dict[str, object]:
    seen = run_twin(replace(window.options, policy=policy)).summary
    return {
        "family": window.family,
        "window": window.number,
        "level": window.level,
        "policy": policy,
        "cost_j": round(float(seen.cost_j or 0.0), 6),
        "violations": round(seen.slo_violation_ratio, 6),
        "accuracy": round(float(seen.accuracy or 0.0), 6),
        "servers": round(float(seen.servers_mean or 0.0), 4),
    }


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def show(path: Path) -> None:
    """Mean J and violations per level, family and policy."""
    cells: dict[float, dict[str, dict[str, list[tuple[float, float]]]]] = {}
    for row in rows(path):
        cell_of = cells.setdefault(row["level"], {}).setdefault(row["family"], {})
        cell_of.setdefault(row["policy"], []).append((row["cost_j"], 100 * row["violations"]))
    for level, families in cells.items():
        names = [name for name in POLICIES if any(name in found for found in families.values())]
        print(f"\n{level:g} requests/s: J; violations [%]\n{'family':<29}" + "".join(f"{name:>16}" for name in names))
        for family, found in families.items():
            print(f"{family:<29}" + "".join(cell(found.get(name, ())) for name in names))


def cell(seen: Iterable[tuple[float, float]]) -> str:
    values = np.array(list(seen))
    return f"{'-':>16}" if not len(values) else f"{values[:, 0].mean():>9.4f} {values[:, 1].mean():>6.2f}"


if __name__ == "__main__":
    main()
