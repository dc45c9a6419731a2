"""How messages travel and wake a node: the driver's loop, mailboxes, bytes between nodes and to clients, payloads,
and timers."""
