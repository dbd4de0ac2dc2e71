"""DeltaMask on the server."""
