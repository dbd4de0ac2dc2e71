"""The server: a Flower Strategy that decodes deltas and aggregates masks by a Beta posterior, evaluation, and what a
run writes.
"""
