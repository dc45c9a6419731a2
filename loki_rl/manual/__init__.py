"""Pages of the manual that are made from the code: what files hold, metrics, environments."""
