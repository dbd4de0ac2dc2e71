"""LotteryFL on a client."""
