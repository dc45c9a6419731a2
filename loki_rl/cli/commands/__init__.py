"""What each command does: one function a command, named in the table of cli/main.py."""
