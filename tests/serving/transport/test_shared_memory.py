"""Tensors in shared memory: found where their reference says, freed by their owner alone, sent where there is no room."""

from __future__ import annotations

import resource
import time
from pathlib import Path

import numpy as np
import pytest

from loki_rl.serving.transport.shared_memory import LEAST_BYTES, LOST_S, REQUEST, SharedMemory, of_task, reference, size_of
from loki_rl.serving.transport.wire import WireError, pack, unpack

LARGE = np.arange(LEAST_BYTES, dtype=np.float32).reshape(4, -1)


def files(folder: Path) -> int:
    return len(list(folder.iterdir()))


def test_a_large_tensor_is_written_once_and_read_in_place(tmp_path: Path) -> None:
    memory = SharedMemory(str(tmp_path))
    frame = memory.pack(REQUEST, LARGE)
    assert len(frame) < 100
    assert size_of(frame) == len(pack(LARGE))
    read = unpack(memory.read(frame))
    assert np.array_equal(read, LARGE)
    assert not read.flags.writeable
    memory.free(frame, REQUEST)
    assert files(tmp_path) == 0
    assert np.array_equal(read, LARGE), "who has it mapped reads on"
    with pytest.raises(WireError, match="is not there"):
        memory.read(frame)


def test_a_small_tensor_and_one_that_finds_no_memory_are_sent(tmp_path: Path) -> None:
    small = np.ones(8)
    assert SharedMemory(str(tmp_path)).pack(REQUEST, small) == pack(small)
    for folder in ("", str(tmp_path / "nowhere")):
        assert SharedMemory(folder).pack(REQUEST, LARGE) == pack(LARGE)
    assert files(tmp_path) == 0


def test_a_full_disk_of_memory_leaves_nothing_and_loses_nothing(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (LEAST_BYTES // 2, limits[1]))
    try:
        frame = SharedMemory(str(tmp_path)).pack(REQUEST, LARGE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert np.array_equal(unpack(frame), LARGE)
    assert files(tmp_path) == 0


def test_only_its_owner_frees_a_tensor(tmp_path: Path) -> None:
    memory = SharedMemory(str(tmp_path))
    frame = memory.pack(of_task(3), LARGE)
    for other in (REQUEST, of_task(1), of_task(31)):
        memory.free(frame, other)
    assert files(tmp_path) == 1
    memory.free(frame, of_task(3))
    memory.free(frame, of_task(3))
    memory.free(pack(LARGE), of_task(3))
    assert files(tmp_path) == 0


def test_what_a_process_left_is_swept_and_what_is_held_or_new_is_not(tmp_path: Path) -> None:
    memory, now = SharedMemory(str(tmp_path)), time.time()
    held, _, other = (memory.pack(of_task(task), LARGE) for task in (1, 1, 10))
    assert memory.sweep(of_task(1), [held, pack(LARGE)], now) == 0, "it may be on its way"
    assert memory.sweep(of_task(1), [held, pack(LARGE)], now + LOST_S + 1) == 1
    assert files(tmp_path) == 2
    assert memory.sweep(of_task(10), [], now + LOST_S + 1) == 1
    assert np.array_equal(unpack(memory.read(held)), LARGE)
    with pytest.raises(WireError):
        memory.read(other)
    (tmp_path / "gone").mkdir()
    assert SharedMemory(str(tmp_path / "nowhere")).sweep(REQUEST, []) == 0


@pytest.mark.parametrize("name", ["../secret", "request-../../x", "request-", "", "/etc/passwd", "a-b/c", "request-a.b"])
def test_a_reference_leads_nowhere_else(name: str, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(pack(np.ones(2)))
    memory = SharedMemory(str(tmp_path / "memory"))
    frame = b"S\x01" + (100).to_bytes(8, "little") + name.encode()
    with pytest.raises(WireError, match="names no tensor"):
        memory.read(frame)
    memory.free(frame, REQUEST)
    assert (tmp_path / "secret").exists()


def test_a_tensor_shorter_than_its_reference_says_is_not_mapped(tmp_path: Path) -> None:
    memory = SharedMemory(str(tmp_path))
    frame = memory.pack(REQUEST, LARGE)
    found = reference(frame)
    assert found is not None
    (tmp_path / found.name).write_bytes(b"")
    with pytest.raises(WireError, match="not as long"):
        memory.read(frame)
