"""Commands in processes of their own: what they print, and what remains of them when they are interrupted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

Call = Callable[..., Any]


def test_a_whole_process_prints_json_alone(typed: Call, small: Path, crowd: Path) -> None:
    said = typed("simulate", small, "--trace", crowd, "--json")
    assert (said.code, said.err) == (0, "")
    assert said.json["arrivals"] == 100


def test_help_waits_for_no_command() -> None:
    """Which would import what it runs: the allocator, array libraries, planes."""
    program = (
        "import sys; from click.testing import CliRunner; from loki_rl.cli.main import app\n"
        "assert 'simulate' in CliRunner().invoke(app, ['--help']).output\n"
        "print(sorted({'numpy', 'msgspec', 'rich', 'zmq'} & set(sys.modules)), end='')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("[]", "")


def test_a_whole_process_compares_in_several(typed: Call, small: Path, crowd: Path, tmp_path: Path) -> None:
    words = ("compare", small, "--trace", crowd, "--policies", "static,exact", "--jobs", 2, "--logdir", tmp_path)
    said = typed(*words, "--json")
    assert said.code == 0
    assert [one["policy"] for one in said.json["results"]] == ["static", "exact"]
    assert "Traceback" not in said.err


def test_a_whole_process_fails_with_one_sentence(typed: Call, small: Path, bad: Path) -> None:
    assert "malformed YAML" in typed("plan", bad / "malformed.yaml", "--demand", 5, "--json").sentence
    infeasible = typed("plan", small, "--demand", 20, "--servers", 1, "--json")
    assert infeasible.json["mode"] == "infeasible"
    assert infeasible.json["reasons"][0] in infeasible.failure


def test_a_run_for_whose_results_there_is_no_room_ends_with_a_sentence(small: Path, crowd: Path, tmp_path: Path) -> None:
    program = (
        "import resource, sys; from loki_rl.cli.main import main\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (300, 300)); main()"
    )
    words = ("simulate", small, "--trace", crowd, "--policy", "static", "--logdir", tmp_path)
    done = subprocess.run([sys.executable, "-c", program, *map(str, words)], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "File too large for what this command has to write or open; make room, then run it again" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("number", "send", "code"), [
    (signal.SIGINT, os.killpg, 130),  # Ctrl-C reaches the whole group
    (signal.SIGKILL, os.kill, -signal.SIGKILL),
])  # fmt: skip
def test_an_interrupted_comparison_leaves_no_process(
    small: Path, crowd: Path, tmp_path: Path, number: signal.Signals, send: Callable[[int, int], None], code: int
) -> None:
    endless = tmp_path / "endless.csv"
    endless.write_text("t_seconds,requests\n0,2000000\n50000,2000000\n")
    traces = ("--trace", crowd, "--trace", endless)
    words = ("compare", small, *traces, "--policies", "static", "--seeds", 3, "--jobs", 2, "--logdir", tmp_path / "runs")
    command = [sys.executable, "-m", "loki_rl", *map(str, words)]
    out_err = subprocess.PIPE
    with subprocess.Popen(command, stdout=out_err, stderr=out_err, text=True, start_new_session=True) as running:
        try:
            assert running.stderr is not None
            assert running.stderr.readline().startswith("[1/")
            send(running.pid, number)
            out, err = running.communicate(timeout=120)  # returns when nobody holds the pipes any more
        finally:
            with suppress(ProcessLookupError):
                os.killpg(running.pid, signal.SIGKILL)
    assert (running.returncode, out) == (code, "")
    assert "Traceback" not in err
