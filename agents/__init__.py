"""Learning: training in train/, comparison on windows never seen in evaluate/, and export to files without torch."""
