"""What people see beside results: help, versions, completion, progress, and tables in a narrow terminal."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from loki_rl.agents import commands as learning
from loki_rl.cli import terminal
from loki_rl.files.config import load_pipeline
from loki_rl.files.profile_file import ProfileFile

Call = Callable[..., Any]


@pytest.mark.parametrize("words", [("-h",), ("plan", "-h"), ("trace", "-h"), ("trace", "stats", "-h")])
def test_a_short_flag_asks_for_help(call: Call, words: tuple[str, ...]) -> None:
    said = call(*words)
    assert said.code == 0
    assert said.out.startswith("Usage: loki-rl")


def test_no_summary_of_a_command_is_cut(call: Call) -> None:
    assert "..." not in call("-h").out.partition("Commands:")[2]


def test_the_version_is_told(call: Call) -> None:
    said = call("--version")
    assert said.code == 0
    assert said.out.startswith("loki-rl")


def test_a_missing_flag_leads_to_help(call: Call) -> None:
    assert call("plan", "traffic").sentence == "Missing option '--demand'; see 'loki-rl plan --help'"


@pytest.mark.parametrize(
    ("typed", "wanted"),
    [("loki-rl pl", "plan"), ("loki-rl plan --dem", "--demand"), ("loki-rl plan traffic --solver ", "pulp")],
)
def test_shells_complete_commands_flags_and_values(typed: str, wanted: str) -> None:
    *words, last = typed.split(" ")
    asked = {"_LOKI_RL_COMPLETE": "bash_complete", "COMP_WORDS": typed, "COMP_CWORD": str(len(words))}
    command = [sys.executable, "-m", "loki_rl"]
    done = subprocess.run(command, env=os.environ | asked, capture_output=True, text=True, timeout=60, check=False)
    assert f"plain,{wanted}" in done.stdout.split(), (last, done.stderr)


def test_of_a_table_without_room_whole_columns_are_left_out_and_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    table = terminal.new_table("a table", "policy", "violations %>", "p99 ms>")
    table.add_row("hardware", "12.345", "215.75")
    terminal.shown(table)
    said = capsys.readouterr().out
    assert "hardware" in said
    assert "12.345" in said
    assert "215" not in said
    assert "not shown, for want of room: p99 ms" in said


def test_where_nobody_looks_a_line_says_how_far_it_is_and_short_work_none(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with terminal.progress_bars() as progress:
        progress("short work", 0.5)
        progress("short work", 1.0)
    assert capsys.readouterr().err == ""
    with terminal.progress_bars() as progress:
        progress("work that takes its time", 0.0)
        assert capsys.readouterr().err == "work that takes its time ...\n"
    monkeypatch.setattr(terminal, "LINE_S", 0.0)
    with terminal.progress_bars() as progress:
        progress("long work", 0.5)
    assert capsys.readouterr().err.startswith("long work: 50%, ")


def test_a_profile_shows_accuracies_of_variants_and_paths(capsys: pytest.CaptureFixture[str]) -> None:
    file = load_pipeline("reading").profile
    assert file is not None
    profile = ProfileFile.load(file)
    terminal.profile({"file": str(file), **msgspec.to_builtins(profile)})
    said = capsys.readouterr().out
    best = max(profile.paths, key=lambda one: one.accuracy)
    assert f"{', '.join(best.path)}" in said
    assert all(f"{100 * one.accuracy:.1f}" in said for one in profile.accuracies)


def test_a_profile_without_accuracies_says_where_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    file = load_pipeline("reading").profile
    assert file is not None
    profile = replace(ProfileFile.load(file), accuracies=(), paths=(), fanouts=())
    terminal.profile({"file": str(file), **msgspec.to_builtins(profile)})
    said = capsys.readouterr().out
    assert "accuracies and fan-outs stay as the pipeline file has them; --data and --scorer measure them\n" in said
    assert "end to end" not in said


def test_training_that_is_not_installed_is_a_sentence_before_anything_runs(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(learning, "find_spec", lambda name: None if name == "torch" else find_spec(name))
    monkeypatch.setattr(learning, "table_of", lambda _: pytest.fail("the allocator was compiled"))
    assert call("train", "traffic").sentence == "training needs torch; install it with: pip install 'loki-rl[train]'"
