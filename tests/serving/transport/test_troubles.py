"""Troubles are counted by kind and told once."""

from __future__ import annotations

import errno

import pytest
import zmq

from loki_rl.serving.transport.protocol import MAX_SENTENCE
from loki_rl.serving.transport.troubles import Troubles, kind_of


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (OSError(errno.ENOSPC, "no space"), "disk"),
        (OSError(errno.EFBIG, "too large"), "disk"),
        (OSError(errno.EMFILE, "too many"), "files"),
        (zmq.ZMQError(errno.EMFILE), "files"),
        (OSError(errno.ENOENT, "no such file"), "event"),
        (OSError("without a number"), "event"),
        (KeyError(1), "event"),
        (None, "event"),
    ],
)
def test_what_kind_an_error_is_of(error: BaseException | None, kind: str) -> None:
    assert kind_of(error) == kind


def test_troubles_are_counted_and_told_once() -> None:
    troubles = Troubles("a")
    assert troubles.news() == []
    troubles.record("disk", "full")
    troubles.record("event", "x" * 10_000)
    troubles.record("disk", "full again")
    disk, event = troubles.news()
    assert (disk.process, disk.kind, disk.count, disk.said) == ("a", "disk", 2, "full again")
    assert (event.kind, event.count) == ("event", 1)
    assert len(event.said) < 2 * MAX_SENTENCE
    assert disk.at_s >= event.at_s > 0
    assert troubles.news() == []


def test_they_are_told_again_to_who_has_forgotten() -> None:
    troubles = Troubles("a")
    troubles.tell_again()
    assert troubles.news() == []
    troubles.record("disk", "full")
    first = troubles.news()
    troubles.tell_again()
    assert troubles.news() == first
