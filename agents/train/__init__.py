"""An episode as the learner sees it: the training loop, its critic, validation and checkpoints, and the
forecaster's training."""
