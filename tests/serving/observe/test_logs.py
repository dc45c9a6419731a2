"""Logs of a plane's processes: one JSON object a line, kept where they were asked for, with how each request ended."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path

import pytest

from loki_rl.core.options import ClusterOptions
from loki_rl.serving.gateway.client import Client
from loki_rl.serving.observe.logs import JsonLines, LogOptions
from loki_rl.serving.process.launch import LaunchError, LocalPlane


def test_a_record_is_one_line_with_its_fields_and_its_error() -> None:
    try:
        raise ValueError("two\nlines")
    except ValueError:
        record = logging.LogRecord("loki", logging.ERROR, "x.py", 1, "failed on %s", ("batch 7",), sys.exc_info())
    record.__dict__["fields"] = {"batch": 7}
    text = JsonLines("router-0").format(record)
    assert "\n" not in text
    line = json.loads(text)
    assert (line["level"], line["process"], line["message"], line["batch"]) == ("error", "router-0", "failed on batch 7", 7)
    assert line["time"].endswith("+00:00")
    assert "ValueError: two" in line["error"]


def test_every_process_keeps_its_log_and_tells_how_requests_ended(tmp_path: Path, quick_traffic: ClusterOptions) -> None:
    logs = LogOptions(str(tmp_path / "logs"), json_lines=True, level="debug")
    policy = {"servers": 6, "demand_rps": 5.0}
    with (
        LocalPlane(quick_traffic, policy="static", policy_options=policy, logs=logs) as plane,
        Client(plane.front) as client,
    ):
        answer = client.infer()
        names = set(plane.pids)
    assert {path.stem for path in (tmp_path / "logs").iterdir()} == names
    lines = [json.loads(line) for line in (tmp_path / "logs" / "gateway.log").read_text().splitlines()]
    (ended,) = [line for line in lines if line["message"] == "request ended"]
    assert (ended["outcome"], ended["leaves"]) == (answer.outcome, len(answer.served))
    assert ended["process"] == "gateway"


def test_a_folder_that_cannot_be_made_is_told_before_anything_starts(tmp_path: Path, quick_traffic: ClusterOptions) -> None:
    (tmp_path / "file").touch()
    plane = LocalPlane(quick_traffic, logs=LogOptions(str(tmp_path / "file" / "logs")))
    with pytest.raises(LaunchError, match="the logs cannot be kept in"), plane:
        pass
