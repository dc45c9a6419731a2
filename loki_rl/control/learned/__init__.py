"""A trained agent at work: what it sees, what it may do, and the agents that ship. Training is in loki_rl/agents."""
