"""HideNseek: Vallapuram et al., HideNseek: Federated Lottery Ticket via Server-side Pruning and Sign Supermask, arXiv
2206.04385: what both sides must agree on of a pruned network whose weights have a sign to learn.
"""
