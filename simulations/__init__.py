"""Populations to try fedpipe on: data sets, divisions among clients, a referee. No algorithms."""
