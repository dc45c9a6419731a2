"""Histories as files, also such as nobody should have written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from loki_rl.control.demand.history import History
from loki_rl.control.demand.history_file import LARGEST, HistoryError, read_history, write_history


@pytest.fixture
def file(tmp_path: Path) -> Path:
    found = History()
    found.extend(np.random.default_rng(1).poisson(30, 5000).tolist(), 123)
    path = tmp_path / "history.json"
    write_history(path, found)
    return path


def test_what_is_written_is_read_to_the_last_bit(file: Path) -> None:
    found = read_history(file)
    assert found.pending > 0
    other = file.with_name("other.json")
    write_history(other, found)
    assert other.read_bytes() == file.read_bytes()
    assert sorted(one.name for one in file.parent.iterdir()) == ["history.json", "other.json"]
    assert file.stat().st_size < LARGEST / 20


def refused(path: Path) -> str:
    """Why; one sentence, with the file and what to do."""
    with pytest.raises(HistoryError) as error:
        read_history(path)
    said = str(error.value)
    assert str(path) in said
    assert "\n" not in said
    assert "`" not in said
    assert "; " in said
    return said


def spoil(key: str, value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda data: data.update({key: value})


def first(key: str, value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda data: data[key].__setitem__(0, value)


HOSTILE = {
    "another version": (spoil("version", 2), "it is of version 2, this program reads 1"),
    "no version": (lambda data: data.pop("version"), "missing required field version"),
    "a key too many": (spoil("jmups", []), "unknown field jmups"),
    "negative": (first("jumps", -1.0), "jumps[0]"),
    "huge": (first("jumps", 1e300), "jumps[0]"),
    "text": (spoil("seconds", "many"), "seconds"),
    "too short": (spoil("jumps", [0.0]), "jumps"),
    "more jumps than seconds": (first("jumps", 1e6), "more than happens in its seconds"),
    "longer stays than can be seen": (spoil("stayed", 1e12), "more than happens in its seconds"),
    "too many counts": (spoil("recent", [1] * 5000), "recent"),
    "no whole counts": (spoil("recent", [0.5]), "recent"),
    "counts that are not there": (spoil("recent", []), "fewer counts than it says"),
    "another calendar": (spoil("habits", []), "its calendar is not that of hours, days and weeks"),
    "a time that is none": (spoil("until_s", 10**15), "until_s"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused_in_one_sentence(file: Path, name: str) -> None:
    change, why = HOSTILE[name]
    data = json.loads(file.read_bytes())
    change(data)
    file.write_text(json.dumps(data))
    assert why in refused(file)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "NaN", '{"version": 1, "seconds": NaN}', '{"version": 1, "seconds": 1e999}']
)
def test_what_is_no_json_is_refused(file: Path, text: str) -> None:
    file.write_text(text)
    refused(file)


def test_every_truncation_is_refused(file: Path) -> None:
    data = file.read_bytes()
    for size in range(0, len(data) - 1, 97):
        file.write_bytes(data[:size])
        refused(file)


def test_bytes_depth_and_size(file: Path) -> None:
    for data in (b"\xff\xfe\x00", b"[" * 100_000, b'{"version": 1, "x": ' + b"[" * 100_000, b" " * (LARGEST + 1)):
        file.write_bytes(data)
        refused(file)


def test_no_file_and_no_folder(tmp_path: Path) -> None:
    assert "make it with 'loki-rl history fit'" in refused(tmp_path / "absent.json")
    assert "cannot be read" in refused(tmp_path)
    with pytest.raises(HistoryError, match="cannot be written"):
        write_history(tmp_path / "absent" / "history.json", History())
