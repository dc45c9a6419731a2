"""How good methods are on windows that training never saw: tuned bases, guarded agents, equal terms, shifted worlds."""
