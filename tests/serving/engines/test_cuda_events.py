"""GPU time by events: what is asked of the CUDA runtime, in which order, and what is made of its answers."""

from __future__ import annotations

import ctypes
from typing import Any

import pytest

from loki_rl.serving.engines import cuda_events
from loki_rl.serving.engines.cuda_events import CudaError, CudaEvents
from loki_rl.serving.engines.device import CUDA, Device
from loki_rl.serving.engines.providers import providers
from loki_rl.serving.engines.sessions import cuda_answers

STREAM, FIRST_EVENT, ELAPSED_MS = 0x7F00, 0x100, 2.5


class Runtime:
    """The functions of libcudart that are called; the real ones need a GPU. fails: name -> code of the call that fails."""

    def __init__(self, **fails: int) -> None:
        self.fails = fails
        self.calls: list[tuple[str, tuple[int, ...]]] = []
        self.events = 0

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("cuda"):
            raise AttributeError(name)
        return lambda *arguments: self.call(name, *arguments)

    def call(self, name: str, *arguments: Any) -> int:
        told = tuple(argument.value for argument in arguments if hasattr(argument, "value"))
        self.calls.append((name, told))
        first: Any = getattr(arguments[0], "_obj", None)
        if name == "cudaStreamCreate":
            first.value = STREAM
        elif name == "cudaEventCreate":
            first.value = FIRST_EVENT + self.events
            self.events += 1
        elif name == "cudaEventElapsedTime":
            assert isinstance(first, ctypes.c_float)
            first.value = ELAPSED_MS
        return self.fails.get(name, 0)


def test_work_is_between_two_events_of_one_stream_and_their_time_is_what_counts() -> None:
    runtime = Runtime()
    events = CudaEvents(runtime, 1)
    assert events.stream == STREAM
    assert runtime.calls[0] == ("cudaSetDevice", (1,))
    runtime.calls.clear()
    before = events.now()
    events.timed(lambda: runtime.calls.append(("work", (sum(range(1_000_000)) and 0,))))
    took = events.now().since(before)
    begin, end = FIRST_EVENT, FIRST_EVENT + 1
    assert runtime.calls == [
        ("cudaEventRecord", (begin, STREAM)),
        ("work", (0,)),
        ("cudaEventRecord", (end, STREAM)),
        ("cudaEventSynchronize", (end,)),
        ("cudaEventElapsedTime", (begin, end)),
    ]
    assert events.delayed_s > 0.0
    assert took.own == pytest.approx(ELAPSED_MS / 1000, abs=0.002)


@pytest.mark.parametrize("name", ["cudaEventRecord", "cudaEventSynchronize", "cudaEventElapsedTime"])
def test_a_call_that_fails_is_told(name: str) -> None:
    events = CudaEvents(Runtime(**{name: 700}), 0)
    with pytest.raises(CudaError, match=f"{name} failed with code 700"):
        events.timed(lambda: None)


@pytest.mark.parametrize("library", [None, object(), Runtime(cudaSetDevice=100), Runtime(cudaStreamCreate=2)])
def test_without_a_runtime_that_works_there_are_none_and_that_is_logged(
    library: object, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(cuda_events, "_library", lambda: library)
    assert cuda_events.cuda_events(0) is None
    assert "the thread that waits for them" in caplog.text


def test_a_host_without_a_gpu_has_none_whether_it_has_the_library_or_not() -> None:
    if cuda_answers():
        pytest.skip("this host has a GPU")
    assert cuda_events.cuda_events(0) is None


def test_a_session_runs_on_the_stream_that_is_timed() -> None:
    ((name, options),) = (one for one in providers(Device("cuda"), stream=STREAM) if not isinstance(one, str))
    assert (name, options["user_compute_stream"]) == (CUDA, str(STREAM))
    ((_, usual),) = (one for one in providers(Device("cuda")) if not isinstance(one, str))
    assert "user_compute_stream" not in usual
