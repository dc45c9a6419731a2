"""The command line: which commands there are, their flags, and what people see in the terminal. main.py is the way in."""
