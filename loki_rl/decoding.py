"""What decoding raises. Apart from errors.py, which commands that only print their help import too."""

from __future__ import annotations

import msgspec

# For bytes that are no message of the type that is wanted: msgspec lets two of Python's own pass.
UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
