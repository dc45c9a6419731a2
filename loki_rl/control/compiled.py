"""Compilation of the hot loops, where numba is installed. Owns the one switch and what makes kept machine code stale; knows
nothing of what is compiled."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np

from loki_rl.control.compiling import compiling

njit: Any = None  # the same functions then run as they are: equal results, slower
with suppress(ImportError):
    import numba
    from numba.core import event

    njit = None if numba.config.DISABLE_JIT else numba.njit  # type: ignore[attr-defined]

    class _Listener(event.Listener):
        """Code that is found in the cache is no event."""

        def on_start(self, _event: Any) -> None:
            compiling.begin()

        def on_end(self, _event: Any) -> None:
            compiling.end()

    event.register("numba:compile", _Listener())  # type: ignore[no-untyped-call]

F = TypeVar("F", bound=Callable[..., object])


def compiled(function: F) -> F:
    """The function as machine code, which is kept beside its source file. No fast-math: results are those of the
    interpreter, bit for bit."""
    return _machine_code(function)


def lean(function: F) -> F:
    """As `compiled`, for functions that make no array: nothing counts who refers to their arguments, which would take most
    of the time of a small one."""
    return _machine_code(function, _nrt=False)


def inlined(function: F) -> F:
    """As `lean`, and put into its callers."""
    return _machine_code(function, _nrt=False, forceinline=True)


def unlocked(function: F) -> F:
    """As `lean`, and other threads of Python run meanwhile: what it writes to must be its thread's alone."""
    return _machine_code(function, _nrt=False, nogil=True)


def _machine_code(function: F, **flags: bool) -> F:
    if njit is None:
        return function
    made = njit(cache=True, error_model="numpy", **flags)(function)
    # numba itself asks only when the function's own file was changed, but what it calls and the constants of other modules
    # are in the code too: after a `git pull`, results of old and new code would be mixed.
    made._cache._cache_file._source_stamp = made.stamp = _stamp(function)
    return cast(F, made)


def _stamp(function: Callable[..., object]) -> str:
    """Of the source file, and of what it has imported: constants, and compiled functions with what they are made of."""
    digest = hashlib.sha256(_source(function.__code__.co_filename))
    for name, value in function.__globals__.items():
        if isinstance(value, np.ndarray):
            digest.update(value.tobytes())
        elif isinstance(value, (int, float, str, tuple)) and not name.startswith("__"):
            digest.update(f"{name}={value!r}".encode())
        elif callable(value) and isinstance(stamp := getattr(value, "stamp", None), str):
            digest.update(stamp.encode())
    return digest.hexdigest()


@cache
def _source(file: str) -> bytes:
    return Path(file).read_bytes()
