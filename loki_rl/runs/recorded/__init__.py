"""Runs on planes that were recorded: how a recording begins, what else would have come of it, and who follows it live."""
