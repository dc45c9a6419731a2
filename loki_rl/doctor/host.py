"""The host: cores, GPUs, ports, room for sockets and machine code, models."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path

from loki_rl.doctor.findings import Finding
from loki_rl.files.user_folders import MODELS_VARIABLE, models_folder, profiles_folder
from loki_rl.serving.folder import base_folder
from loki_rl.serving.host import processor

HTTP_PORT = 8000
# Fewer open files than this are soon used up by many clients; the plane asks for more where it may.
FEW_FILES = 1024
LITTLE_BYTES = 64 << 20
ANSWER_S = 10.0
PACKAGE = Path(__file__).parents[1]


def host() -> Iterator[Finding]:
    """Everything about the machine."""
    yield _cores()
    yield _gpus()
    yield _port(HTTP_PORT)
    yield _room("run folder", base_folder())
    yield _room("shared memory", Path("/dev/shm"))
    yield _files()
    yield _compiled()
    yield _folder("models", models_folder(), f"loki-rl models fetch reading (or set {MODELS_VARIABLE})")
    yield _profiles()


def _cores() -> Finding:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    busy = os.getloadavg()[0]
    found = f"{processor()}, {usable} usable, {busy:.1f} busy in the last minute"
    if usable == 1:
        return Finding("cores", "note", found, "a worker is a core: use two or more for what is measured on this host")
    if busy > usable / 2:
        return Finding("cores", "note", found, "measure (profile, demo, compare on planes) when less else runs")
    return Finding("cores", "ok", found)


def _gpus() -> Finding:
    """As the driver sees them; whether ONNX Runtime can use them its providers say."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return Finding("GPU", "ok", "none that nvidia-smi knows: everything runs on the CPU")
    try:
        done = subprocess.run([command, "-L"], capture_output=True, text=True, timeout=ANSWER_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return Finding("GPU", "wrong", f"nvidia-smi does not answer: {error}", "see to the driver, or use --device cpu")
    if done.returncode:
        told = " ".join((done.stderr or done.stdout).split())
        return Finding("GPU", "wrong", f"nvidia-smi fails: {told}", "see to the driver, or use --device cpu")
    return Finding("GPU", "ok", "; ".join(done.stdout.splitlines()))


def _port(port: int) -> Finding:
    with closing(socket.socket()) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            return Finding(f"port {port}", "note", error.strerror or str(error), "serve with another --http-port")
    return Finding(f"port {port}", "ok", "free")


def _room(what: str, folder: Path) -> Finding:
    try:
        with tempfile.TemporaryFile(dir=folder):
            free = shutil.disk_usage(folder).free
    except OSError as error:
        return Finding(what, "wrong", f"{folder}: {error.strerror}", f"make {folder} writable for this user")
    found = f"{folder}, {free >> 20} MB free"
    if free < LITTLE_BYTES:
        return Finding(what, "wrong", found, "make room; in a container give more, as with --shm-size 1g")
    return Finding(what, "ok", found)


def _files() -> Finding:
    try:
        import resource
    except ImportError:
        return Finding("open files", "ok", "no limit known")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= hard <= FEW_FILES:
        return Finding("open files", "note", f"at most {hard} for each process", "raise the hard limit (ulimit -Hn)")
    return Finding("open files", "ok", f"{soft}, and up to {'any number' if hard < 0 else hard} where asked for")


def _compiled() -> Finding:
    """Machine code is kept beside its source, else in the user's cache folder, else made again by every process."""
    if find_spec("numba") is None:
        return Finding("compiled code", "note", "no numba, so nothing is compiled", "pip install 'loki-rl[fast]'")
    kept = sum(1 for _ in (PACKAGE / "control").rglob("__pycache__/*.nbi"))
    if kept:
        return Finding("compiled code", "ok", f"{kept} functions are kept beside the sources")
    if os.access(PACKAGE / "control", os.W_OK):
        return Finding("compiled code", "note", "none yet", "the first command that plans compiles for about a minute, once")
    cache = os.environ.get("NUMBA_CACHE_DIR")
    advice = "set NUMBA_CACHE_DIR to a folder that this user may write, so that code is compiled only once"
    found = f"{PACKAGE} is read-only; kept in {cache or 'the cache folder of the user'}"
    return Finding("compiled code", "note", found, "" if cache else advice)


def _profiles() -> Finding:
    """They count without being named, so they are."""
    folder, what = profiles_folder(), "own profiles"
    own = sorted(file.name for file in folder.glob("*.json"))
    if not own:
        return Finding(what, "ok", f"none in {folder}: shipped pipelines have the figures that they come with")
    return Finding(what, "ok", f"{folder} has {', '.join(own)}, used instead of what is shipped until you delete it")


def _folder(what: str, folder: Path, how: str) -> Finding:
    if folder.is_dir() and any(folder.iterdir()):
        return Finding(what, "ok", str(folder))
    return Finding(what, "note", f"{folder} is empty", how)
