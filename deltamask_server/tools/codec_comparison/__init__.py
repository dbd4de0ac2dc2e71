"""Every codec on one update, measured: rounds to measure on, figures against theory, and their table."""
