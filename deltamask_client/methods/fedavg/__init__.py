"""FedAvg on a client."""
