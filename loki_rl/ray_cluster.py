"""The Ray cluster that a plane or runs are spread over, where the extra loki-rl[ray] is installed."""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import Annotated, Any, Literal

from loki_rl.errors import UserError
from loki_rl.options import Help

LauncherName = Literal["local", "ray"]
AUTO = "auto"
ClusterAddress = Annotated[
    str,
    Help("Ray cluster of --launcher ray, which this host is in: auto, or HOST:PORT of its head."),
]


class ClusterError(UserError):
    """There is no Ray cluster to use; the message is one sentence that says why and what to do."""


def connect(address: str = AUTO) -> Any:
    """The module ray, connected to a cluster that this host is in; as it is where it already was. Raises ClusterError."""
    if find_spec("ray") is None:
        raise ClusterError("the launcher ray needs the extra loki-rl[ray]; install it, or leave --launcher out")
    if "://" in address:
        # A plane's processes must reach the launcher, and what a client of Ray began ends with its connection.
        raise ClusterError(
            f"'{address}' is no address of a cluster's head; run this on a host of the cluster, with --address auto or "
            "HOST:PORT, or let 'ray job submit' run it there"
        )
    # Read at the import: nothing is told to anybody.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    if not ray.is_initialized():
        try:
            ray.init(address, log_to_driver=False, logging_level="ERROR")
        # What Ray raises depends on how far it came: no cluster, no answer, other versions, not an address.
        except Exception as error:
            why = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
            raise ClusterError(
                f"no Ray cluster can be used at '{address}' ({why}); start one with 'ray start --head', or name one with "
                "--address"
            ) from None
    return ray
