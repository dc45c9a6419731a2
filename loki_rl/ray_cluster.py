"""The Ray cluster that a plane or runs are spread over, where the extra loki-rl[ray] is installed."""

from __future__ import annotations

import os
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

from loki_rl.errors import UserError
from loki_rl.options import Help

LauncherName = Literal["local", "ray"]
AUTO = "auto"
# Addresses of the server for clients that Ray's head is, and how long one of them seeks a head that is gone [s].
CLIENT = "ray://"
RECONNECT_S = 5
# Where Ray keeps the token that its hosts show each other.
TOKEN_FILE = "~/.ray/auth_token"
ClusterAddress = Annotated[
    str,
    Help("Ray cluster of --launcher ray: auto (that of this host), HOST:PORT of its head, or ray://HOST:PORT from outside."),
]


class ClusterError(UserError):
    """There is no Ray cluster to use; the message is one sentence that says why and what to do."""


def connect(address: str = AUTO) -> Any:
    """The module ray, connected to a cluster; as it is where it already was. Raises ClusterError."""
    if find_spec("ray") is None:
        raise ClusterError("the launcher ray needs the extra loki-rl[ray]; install it, or leave --launcher out")
    # Read at the import: nothing is told to anybody.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Whoever has lost a cluster is told so, instead of waiting for another one.
    os.environ["RAY_ENABLE_AUTO_CONNECT"] = "0"
    if address.startswith(CLIENT):
        os.environ.setdefault("RAY_CLIENT_RECONNECT_GRACE_PERIOD", str(RECONNECT_S))
        _show_token()
    import ray

    if not ray.is_initialized():
        try:
            with warnings.catch_warnings(action="ignore"):  # one sentence is enough
                ray.init(address, log_to_driver=False, logging_level="ERROR")
        # What Ray raises depends on how far it came: no cluster, no answer, other versions, not an address.
        except Exception as error:
            why = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
            raise ClusterError(
                f"no Ray cluster can be used at '{address}' ({why}); start one with 'ray start --head', or name one with "
                "--address"
            ) from None
    return ray


def _show_token() -> None:
    """Ray shows the cluster's token by itself from a host of it, not from a client."""
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH", TOKEN_FILE)).expanduser()
    if os.environ.get("RAY_AUTH_TOKEN") or path.is_file():
        os.environ.setdefault("RAY_AUTH_MODE", "token")
