"""HideNseek on the server."""
