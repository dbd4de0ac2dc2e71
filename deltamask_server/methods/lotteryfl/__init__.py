"""LotteryFL on the server."""
