"""What runs at a data owner. Only code in this package opens records."""
