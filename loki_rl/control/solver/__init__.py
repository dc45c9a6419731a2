"""What a search stands on, a simplex, and what it is held to: HiGHS on a model written down in PuLP. Knows no pipeline."""
