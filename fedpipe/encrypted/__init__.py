"""Predictions on rows that nobody else sees. The client side needs NumPy and httpx, and nothing else."""
