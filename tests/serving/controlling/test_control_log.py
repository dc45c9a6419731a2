"""What a controller's log says of drift: all that a task has found at once in one line, and nothing twice."""

from __future__ import annotations

import pytest

from loki_rl.core.messages import Backlog
from loki_rl.core.plan import Drift
from loki_rl.serving.controlling.control_log import ControlLog


def test_what_a_task_finds_at_once_is_one_line_and_told_once(caplog: pytest.LogCaptureFixture) -> None:
    log, slow = ControlLog(), [Drift("read", "small", "", 2.0, {}), Drift("read", "large", "", 2.1, {})]
    for drift in (slow, slow, [slow[0], Drift("read", "large", "", 1.5, {})], []):
        log.record(Backlog(1, 0, 0.0, 0, drift), [], 0.0)
    first, second = (record.getMessage() for record in caplog.records)
    assert "'small' of 'read' takes 2.00 x" in first
    assert "'large' of 'read' takes 2.10 x" in first
    assert "small" not in second
    assert "'large' of 'read' takes 1.50 x" in second
