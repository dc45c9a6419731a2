"""The errors that are no fault of the program."""

from __future__ import annotations

import msgspec

# What decoding raises for bytes that are no message of the type that is wanted: msgspec lets two of Python's own pass.
UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


class UserError(ValueError):
    """What was asked for cannot be done, and whoever asked can change that. The message is one sentence: what, where, what
    to do; commands print it without a traceback."""
