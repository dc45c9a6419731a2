"""A request while it is open and once it has ended: the items it falls into, their children, what is still missing, and the
ledger that counts how requests end."""
