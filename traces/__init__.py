"""Demand: trace files and their formats, generators, statistics, and the one function that draws arrivals."""
