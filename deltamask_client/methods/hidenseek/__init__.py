"""HideNseek on a client."""
