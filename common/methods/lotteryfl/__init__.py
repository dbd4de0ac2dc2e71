"""LotteryFL: Li et al., LotteryFL: Personalized and Communication-Efficient Federated Learning with Lottery Ticket
Hypothesis on Non-IID Datasets, arXiv 2008.03371: pruned weights as they travel.
"""
