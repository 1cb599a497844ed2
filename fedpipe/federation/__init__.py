"""Rounds over clients: messages, the round loop, aggregation, engines."""

from fedpipe.federation.messages import Clients, Refusal, Reply, Request

__all__ = ["Clients", "Refusal", "Reply", "Request"]
