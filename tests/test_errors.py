"""Errors of the user: every one that this package raises at a user derives from one class, whose message commands print."""

from __future__ import annotations

import importlib
import pkgutil

import loki_rl
from loki_rl.errors import UserError

# Told to a peer, a client or a driver of ours, never to whoever typed a command.
OURS = {
    "CallError", "CountError", "InferError", "MessageError", "PayloadError", "ValuesError", "WireError", "ZmtpError",
    "_MalformedError", "_RefusedError",
}  # fmt: skip


def errors() -> dict[str, list[type[BaseException]]]:
    """name -> the classes of that name, of all modules that import here."""
    found: dict[str, list[type[BaseException]]] = {}
    for module in pkgutil.walk_packages(loki_rl.__path__, "loki_rl."):
        if module.name.endswith("__main__"):
            continue
        try:
            names = vars(importlib.import_module(module.name))
        except ImportError:  # of an extra that is not installed
            continue
        for value in names.values():
            if isinstance(value, type) and issubclass(value, BaseException) and value.__module__ == module.name:
                found.setdefault(value.__name__, []).append(value)
    return found


def test_errors_are_the_users_or_known_to_be_ours_and_no_two_share_a_name() -> None:
    found = errors()
    assert {"ConfigError", "TraceError", "RequestError", "FaultError", "LaunchError", "EngineError"} <= found.keys()
    assert [name for name, kinds in found.items() if len(kinds) > 1] == []
    others = {name for name, (kind,) in found.items() if not issubclass(kind, UserError)}
    assert others <= OURS
