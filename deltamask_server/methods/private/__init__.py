"""The private method on the server."""
