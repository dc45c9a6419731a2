"""What people and tools see of a plane: logs, counts, Prometheus metrics and traces of requests."""
