"""Whose figures a command uses."""

from __future__ import annotations

from loki_rl.cli import terminal
from loki_rl.files.config import PipelineFile


def tell_profile(file: PipelineFile) -> None:
    """Say where figures are the user's own, and how to be rid of them: whoever compares with others has to know."""
    if file.in_place_of_shipped:
        terminal.note(
            f"{file.name}: with the figures of {file.profile}, which you measured; delete that file to go back to those "
            "that are shipped"
        )
