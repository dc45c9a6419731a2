"""Open-loop load: replay of a trace over the native protocol or HTTP, and the client's own account of it."""
