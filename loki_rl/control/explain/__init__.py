"""Plans looked at from outside: what limits them, what a little more of each resource is worth, and whether they keep what
they promise."""
