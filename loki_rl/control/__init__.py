"""Everything between counted demand and a plan: estimates, the linear model, its solvers, the allocator and the policies
that ask it. What many rooms need lies beside them: compiled loops and a cache."""
