"""Compilation of the hot loops, where numba is installed. Owns the one switch; knows nothing of what is compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

njit: Any
try:
    from numba import njit
except ImportError:  # the same functions then run as they are: equal results, slower
    njit = None

F = TypeVar("F", bound=Callable[..., object])


def compiled(function: F) -> F:
    """The function as machine code. No fast-math: results are those of the interpreter, bit for bit.

    The code is kept beside its source file, and made anew when that file changes, not when one does that it calls: after an
    edit of a called function remove the *.nbi files.
    """
    return function if njit is None else cast(F, njit(cache=True, error_model="numpy")(function))


def lean(function: F) -> F:
    """As `compiled`, for functions that make no array: nothing counts who refers to their arguments, which would take most
    of the time of a small one."""
    return function if njit is None else cast(F, njit(cache=True, error_model="numpy", _nrt=False)(function))


def inlined(function: F) -> F:
    """As `lean`, and put into its callers."""
    made = njit and njit(cache=True, error_model="numpy", _nrt=False, forceinline=True)
    return function if njit is None else cast(F, made(function))
