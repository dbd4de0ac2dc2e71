"""The private method on a client."""
