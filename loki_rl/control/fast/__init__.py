"""The allocator for training: a local search over servers per model, as compiled loops on arrays."""
