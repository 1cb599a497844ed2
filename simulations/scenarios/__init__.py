"""Scenarios: longer stories than one run, told unattended over simulated data owners."""
