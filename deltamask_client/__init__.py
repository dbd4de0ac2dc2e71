"""The client: local masked training of a frozen backbone's last blocks, and the encoded update."""
