"""Trials of a plane: a schedule of faults beside a load, and what becomes of every request. Nothing here is known to a plane
that was not started by it."""
