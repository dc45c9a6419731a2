"""How far the twin is from a plane: a recorded run and the twin on the same arrivals, compared figure by figure."""
