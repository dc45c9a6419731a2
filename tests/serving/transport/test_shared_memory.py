"""Tensors in shared memory: found where their reference says, freed by their owner alone, sent where there is no room."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from msgspec.structs import replace

from loki_rl.serving.transport import shared_memory
from loki_rl.serving.transport.shared_memory import (
    BLOCK_BYTES,
    GATEWAY_KEEPS,
    LEAST_BYTES,
    LOST_S,
    NOWHERE,
    SharedMemory,
    of_task,
    reference,
    size_of,
)
from loki_rl.serving.transport.wire import Array, WireError, pack, unpack
from tests.serving.driving import eventually

LARGE = np.arange(LEAST_BYTES, dtype=np.float32).reshape(4, -1)

CHILD = """
import sys, numpy as np
from loki_rl.serving.transport.shared_memory import GATEWAY_KEEPS, SharedMemory
memory = SharedMemory(sys.argv[1])
sys.stdout.buffer.write(memory.pack(GATEWAY_KEEPS, np.full(100_000, 7, np.uint8)))
sys.stdout.flush()
sys.stdin.read()
"""


def in_use(folder: Path) -> int:
    """Tensors that nobody has freed."""
    return sum(int(np.count_nonzero(np.fromfile(arena, "<u4", BLOCK_BYTES // 4))) for arena in folder.iterdir())


@pytest.fixture
def folder() -> Iterator[Path]:
    """Short-lived files of their own size, wherever the tests run."""
    path = Path("/dev/shm") / f"test-{os.getpid()}-{time.monotonic_ns()}"
    path.mkdir()
    yield path
    for arena in path.iterdir():
        arena.unlink()
    path.rmdir()


def test_a_large_tensor_is_written_once_and_read_in_place_by_others(folder: Path) -> None:
    frame = SharedMemory(str(folder)).pack(GATEWAY_KEEPS, LARGE)
    other = SharedMemory(str(folder))
    assert len(frame) < 100
    assert size_of(frame) == len(pack(LARGE))
    read = unpack(other.read(frame))
    assert np.array_equal(read, LARGE)
    assert not read.flags.writeable
    other.free(frame, GATEWAY_KEEPS)
    assert in_use(folder) == 0
    with pytest.raises(WireError, match="not there any more"):
        other.read(frame)


def test_a_small_tensor_and_one_that_finds_no_memory_are_sent(folder: Path) -> None:
    small = np.ones(8)
    assert SharedMemory(str(folder)).pack(GATEWAY_KEEPS, small) == pack(small)
    for memory in (NOWHERE, SharedMemory(str(folder / "nowhere"))):
        assert memory.pack(GATEWAY_KEEPS, LARGE) == pack(LARGE)
    assert not list(folder.iterdir())


def test_memory_that_is_full_leaves_nothing_and_loses_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    assert np.array_equal(unpack(SharedMemory(str(folder)).pack(GATEWAY_KEEPS, LARGE)), LARGE)
    assert not list(folder.iterdir())


def test_a_tensor_larger_than_an_arena_has_one_of_its_own(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_memory, "USUAL_BLOCKS", 2)
    memory = SharedMemory(str(folder))
    huge = np.arange(10 * BLOCK_BYTES, dtype=np.uint8)
    assert np.array_equal(unpack(memory.read(memory.pack(GATEWAY_KEEPS, huge))), huge)
    monkeypatch.setattr(shared_memory, "MOST_BLOCKS", 4)
    assert SharedMemory(str(folder)).pack(GATEWAY_KEEPS, huge) == pack(huge)


def test_only_its_owner_frees_a_tensor_and_once(folder: Path) -> None:
    memory = SharedMemory(str(folder))
    frame = memory.pack(of_task(3), LARGE)
    for other in (GATEWAY_KEEPS, of_task(1), of_task(31)):
        memory.free(frame, other)
    assert in_use(folder) == 1
    memory.free(frame, of_task(3))
    memory.free(pack(LARGE), of_task(3))
    assert in_use(folder) == 0
    again = [memory.pack(of_task(3), LARGE) for _ in range(200)]
    memory.free(frame, of_task(3))
    assert in_use(folder) == len(again), "a reference to what was freed before frees nothing that came after"


def test_what_its_keeper_lost_is_taken_back(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_memory, "MOST_ARENAS", 1)
    memory = SharedMemory(str(folder))
    lost = memory.pack(GATEWAY_KEEPS, LARGE)
    while reference(frame := memory.pack(GATEWAY_KEEPS, LARGE)) is not None:
        pass
    assert frame == pack(LARGE), "there is no room"
    now = time.monotonic() + LOST_S + 1.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    assert reference(memory.pack(GATEWAY_KEEPS, LARGE)) is not None
    with pytest.raises(WireError, match="not there any more"):
        memory.read(lost)


def test_the_arena_of_a_process_that_ended_goes_after_a_while(folder: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", CHILD, folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        frame = os.read(child.stdout.fileno(), 100)
        memory, now = SharedMemory(str(folder)), time.monotonic()
        assert unpack(memory.read(frame)).sum() == 700_000
        memory.sweep(now)
        memory.sweep(now + LOST_S + 1.0)
        assert len(list(folder.iterdir())) == 1, "its process is there"
        child.kill()
    eventually(lambda: child.poll() is not None, "it did not end")
    memory.sweep(now)
    assert unpack(memory.read(frame)).sum() == 700_000, "who waits for it has not ended"
    memory.sweep(now + LOST_S + 1.0)
    assert not list(folder.iterdir())


@pytest.mark.parametrize("name", ["../secret", "", "/etc/passwd", "a-b", "a.b", "a\0b"])
def test_a_reference_leads_nowhere_else(name: str, folder: Path) -> None:
    frame = b"S\x01" + bytes(12) + name.encode()
    memory = SharedMemory(str(folder))
    with pytest.raises(WireError, match="names no arena"):
        memory.read(frame)
    memory.free(frame, GATEWAY_KEEPS)


def test_a_reference_beyond_its_arena_reads_nothing(folder: Path) -> None:
    memory = SharedMemory(str(folder))
    found = reference(memory.pack(GATEWAY_KEEPS, LARGE))
    assert found is not None
    size = 200 * BLOCK_BYTES
    for wrong in (replace(found, block=0), replace(found, block=9_999), replace(found, life=0), replace(found, size=size)):
        with pytest.raises(WireError, match="not there any more"):
            memory.read(wrong.frame())


class Arenas(RuleBasedStateMachine):
    """Whatever is packed and freed in whatever order: what was not freed is as it was written."""

    @initialize()
    def begin(self) -> None:
        self.folder = Path("/dev/shm") / f"test-{os.getpid()}-{time.monotonic_ns()}"
        self.folder.mkdir()
        self.writer, self.reader = SharedMemory(str(self.folder)), SharedMemory(str(self.folder))
        self.kept: list[tuple[bytes, Array]] = []

    @rule(blocks=st.integers(1, 40), value=st.integers(0, 255))
    def put(self, blocks: int, value: int) -> None:
        array = np.full(blocks * BLOCK_BYTES - 1000, value, np.uint8)
        self.kept.append((self.writer.pack(GATEWAY_KEEPS, array), array))

    @rule(place=st.integers(0, 1000))
    def free(self, place: int) -> None:
        if self.kept:
            frame, _ = self.kept.pop(place % len(self.kept))
            self.reader.free(frame, GATEWAY_KEEPS)

    @invariant()
    def all_are_there(self) -> None:
        for frame, array in self.kept if hasattr(self, "kept") else ():
            assert np.array_equal(unpack(self.reader.read(frame)), array)

    def teardown(self) -> None:
        for arena in self.folder.iterdir():
            arena.unlink()
        self.folder.rmdir()


TestArenas = Arenas.TestCase
TestArenas.settings = settings(max_examples=20, stateful_step_count=30, deadline=None)
