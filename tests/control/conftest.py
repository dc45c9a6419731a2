"""Compiles the solver before any test's time runs."""

from loki_rl.control.own_solver import warm

warm()
