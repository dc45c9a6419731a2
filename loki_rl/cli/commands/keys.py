"""Commands that make keys: of planes and their native clients, and of HTTP and gRPC."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from loki_rl.cli import terminal
from loki_rl.options import Help
from loki_rl.serving.security.api_keys import add_key
from loki_rl.serving.security.key_folder import allow, make_client, make_server


def keys_server(folder: Annotated[Path, Help("Where its keys go; for serve --native-keys.", "folder")]) -> None:
    """Make the key pair of a plane for native clients, and the list of those who may come."""
    public = make_server(folder)
    terminal.line(f"{folder} is the plane's, for --native-keys; give {public} to its clients")


def keys_client(
    folder: Annotated[Path, Help("Where its keys go; for replay --keys.", "folder")],
    server: Annotated[Path, Help("Public key of the plane: its server.key.")],
) -> None:
    """Make the key pair of a native client."""
    public = make_client(folder, server)
    terminal.line(f"{folder} is the client's, for --keys; give {public} to whoever runs the plane, for 'loki-rl keys allow'")


def keys_allow(
    folder: Annotated[Path, Help("Keys of the plane.", "folder")],
    name: Annotated[str, Help("Name for the client.", "name")],
    client: Annotated[Path, Help("Public key of the client: its client.key.", "client")],
) -> None:
    """Let a native client come to a plane, also while it serves."""
    terminal.line(f"{name} may come, until {allow(folder, name, client)} is removed")


def keys_api(
    file: Annotated[Path, Help("File of keys; for serve --api-key-file.", "file")],
    name: Annotated[str, Help("Whose key it is.", "name")],
) -> None:
    """Add an API key for HTTP and gRPC to a file, and print it; a plane that serves knows it within a second."""
    terminal.line(add_key(file, name))
