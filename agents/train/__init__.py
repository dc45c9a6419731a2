"""The training loop of agents, its critic, validation and checkpoints, and the forecaster's training."""
