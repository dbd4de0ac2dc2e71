"""FedAvg on the server."""
