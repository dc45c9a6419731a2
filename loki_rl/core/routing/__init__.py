"""The two kinds of router, by pull and by table, and what they work with: the queue, which drops late items, the credits and
leases of workers, and the shares of variants. What both do alike is in router.py above."""
