"""Machine code that is kept between runs is made anew when anything in it was changed."""

from __future__ import annotations

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest

from loki_rl.control import compiled

CALLEE = "from loki_rl.control.compiled import lean\nSTEP = {step}\n@lean\ndef inner(x):\n    return x {sign} 1\n"
CALLER = (
    "from loki_rl.control.compiled import lean\nfrom callee import STEP, inner\n"
    "@lean\ndef outer(x):\n    return inner(x) * STEP\n"
)


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> object:
    """Write both modules and import them, as a new process would."""
    if compiled.njit is None:
        pytest.skip("numba is not installed: nothing is compiled")
    (tmp_path / "caller.py").write_text(CALLER)

    def fresh(name: str) -> ModuleType:
        spec = spec_from_file_location(name, tmp_path / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, module)
        spec.loader.exec_module(module)
        return module

    def loaded(sign: str, step: int) -> ModuleType:
        (tmp_path / "callee.py").write_text(CALLEE.format(sign=sign, step=step))
        monkeypatch.setattr(sys, "dont_write_bytecode", True)
        compiled._source.cache_clear()
        fresh("callee")
        return fresh("caller")

    return loaded


def test_a_changed_callee_or_constant_of_another_module_makes_kept_code_stale(load: object) -> None:
    assert callable(load)
    first = load("+", 2)
    assert first.outer(10) == 22
    again = load("+", 2)
    assert again.outer(10) == 22
    assert sum(again.outer.stats.cache_hits.values()) == 1
    assert load("-", 2).outer(10) == 18
    assert load("-", 3).outer(10) == 27
