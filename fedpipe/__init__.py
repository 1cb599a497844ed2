"""Federated learning as a whole life cycle, with privacy budgets that anybody can recompute."""

__version__ = "0.1.0"

__all__ = ["__version__"]
