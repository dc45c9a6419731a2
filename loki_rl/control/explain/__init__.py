"""Plans looked at from outside: what limits them, and what a little more of each resource is worth."""
