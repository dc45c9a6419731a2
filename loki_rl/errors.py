"""The errors that are no fault of the program."""

from __future__ import annotations


class UserError(ValueError):
    """What was asked for cannot be done, and whoever asked can change that. The message is one sentence: what, where, what
    to do; commands print it without a traceback."""
