"""Frozen backbones, their masks, the head, their accuracy, and the cache of prefix activations."""
