"""Measured claims: each file is a command, each figure in the docs comes from benchmarks/results."""
