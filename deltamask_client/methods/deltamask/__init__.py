"""DeltaMask on a client."""
