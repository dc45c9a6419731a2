"""The processes of a plane: how they are started, watched, restarted and stopped, and what each node is made of."""
