"""Experiments: many runs of the app, kept in benchmarks/results/experiments."""
