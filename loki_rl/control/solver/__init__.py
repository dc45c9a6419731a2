"""What solves a model written down: HiGHS, and branch and bound of our own on a simplex with proofs. Knows no pipeline."""
