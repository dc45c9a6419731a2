"""What `import loki_rl` offers: the questions of the command line as functions, whose answers a notebook can work with."""
