"""Python and the packages it finds: versions, extras, and wheels that break each other."""

from __future__ import annotations

import platform
import re
import sys
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import PackageNotFoundError, distributions, requires, version

from loki_rl.doctor.findings import Finding

OLDEST = (3, 11)
# Extra -> a package of it, and what is missing without it.
EXTRAS = {
    "fast": ("numba", "plans take about a hundred milliseconds, or a few seconds, instead of a few"),
    "plot": ("matplotlib", "no pictures are drawn"),
    "notebook": ("pandas", "to_pandas() makes no tables"),
    "grpc": ("tritonclient", "serve has no --grpc-port, and config.pbtxt cannot be read"),
    "train": ("sb3_contrib", "train and the agents' learners cannot run"),
    "otel": ("opentelemetry-sdk", "serve sends no spans"),
}
# They are installed into one folder, where the last one wins.
RUNTIMES = ("onnxruntime", "onnxruntime-gpu")
NAME = re.compile(r"[A-Za-z0-9_.-]+")


def packages() -> Iterator[Finding]:
    """Everything about Python and packages."""
    yield _python()
    yield _required()
    yield from _extras()
    yield _runtime()


def _python() -> Finding:
    found = f"{platform.python_version()} ({sys.executable})"
    if sys.version_info < OLDEST:
        return Finding("Python", "wrong", found, f"use Python {'.'.join(map(str, OLDEST))} or newer")
    return Finding("Python", "ok", found)


def _required() -> Finding:
    try:
        lines = requires("loki-rl") or []
    except PackageNotFoundError:
        return Finding("packages", "note", "loki-rl is run from its sources", "install it with: pip install --editable .")
    wanted = [match[0] for line in lines if "extra ==" not in line and (match := NAME.match(line))]
    absent = [name for name in wanted if _version(name) is None and not (name == "uvloop" and sys.platform == "win32")]
    if absent:
        return Finding("packages", "wrong", f"without {', '.join(absent)}", "run pip install --upgrade loki-rl")
    versions = ", ".join(f"{name} {_version(name)}" for name in ("loki-rl", *wanted))
    return Finding("packages", "ok", versions)


def _extras() -> Iterator[Finding]:
    for extra, (package, without) in EXTRAS.items():
        found = _version(package)
        if found is None:
            yield Finding(f"extra [{extra}]", "note", f"not installed: {without}", f"pip install 'loki-rl[{extra}]'")
        else:
            yield Finding(f"extra [{extra}]", "ok", f"{package} {found}")


def _runtime() -> Finding:
    """Two of them pass for one: what is imported is a mixture."""
    there = sorted({one.name for one in distributions() if one.name in RUNTIMES})
    if len(there) == 2:
        return Finding(
            "ONNX Runtime",
            "wrong",
            "onnxruntime and onnxruntime-gpu are both installed, and share a folder",
            "pip uninstall --yes onnxruntime onnxruntime-gpu, then pip install 'loki-rl[cpu]' or 'loki-rl[gpu]'",
        )
    if not there:
        advice = "pip install 'loki-rl[cpu]' (or [gpu])"
        return Finding("ONNX Runtime", "note", "not installed: only emulated workers", advice)
    try:
        providers = import_module("onnxruntime").get_available_providers()
    except (ImportError, AttributeError, OSError) as error:
        return Finding("ONNX Runtime", "wrong", f"{there[0]} cannot be imported: {error}", "install it anew")
    return Finding("ONNX Runtime", "ok", f"{there[0]} {_version(there[0])}: {', '.join(providers)}")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
