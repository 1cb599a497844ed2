"""Encrypted prediction, the operator's side: three parties, their coordinator and the front end."""
