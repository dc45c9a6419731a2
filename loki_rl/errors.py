"""The errors that are no fault of the program."""

from __future__ import annotations


class UserError(ValueError):
    """What was asked for cannot be done, and whoever asked can change that. The message is one sentence: what, where, what
    to do; commands print it without a traceback, and end with exit code 2."""


class FailureError(UserError):
    """What was asked for makes sense and did not succeed: nobody answers, a process does not start, a device is not there.
    Commands end with exit code 1, so that a script can tell that from a mistake in what it typed."""
