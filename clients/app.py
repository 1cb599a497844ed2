"""The ClientApp: Flower's messages in, a node's answers out."""

from __future__ import annotations

import logging
from collections.abc import Callable

from clients import handlers
from clients.node import Node
from fedpipe.errors import DataError, FedpipeError
from fedpipe.federation import Refusal, Reply, Request
from fedpipe.federation.flower_messages import message_to_request, reply_to_message

from flwr.app import Context, Message  # isort: skip
from flwr.clientapp import ClientApp  # isort: skip

logger = logging.getLogger(__name__)

app = ClientApp()


@app.query("ingest")
def ingest(message: Message, context: Context) -> Message:
    """Accepts or refuses a run."""
    return _answer(handlers.ingest, message, context)


@app.query("validate")
def validate(message: Message, context: Context) -> Message:
    """Counts labels and column health."""
    return _answer(handlers.release, message, context)


@app.query("preprocess")
def preprocess(message: Message, context: Context) -> Message:
    """Counts values."""
    return _answer(handlers.release, message, context)


@app.train("train")
def train(message: Message, context: Context) -> Message:
    """Makes one round's local steps."""
    return _answer(handlers.release, message, context)


@app.evaluate("analyze")
def analyze(message: Message, context: Context) -> Message:
    """Counts scores of the evaluation records."""
    return _answer(handlers.release, message, context)


@app.query("finish")
def finish(message: Message, context: Context) -> Message:
    """Closes the run's claim."""
    return _answer(handlers.finish, message, context)


def _answer(handler: Callable[[Node, Request], Reply], message: Message, context: Context) -> Message:
    node = Node.from_config(context.node_config)
    answer: Reply | Refusal
    try:
        answer = handler(node, message_to_request(message))
    except DataError:
        # What is wrong with records is for their owner's eyes.
        logger.exception("%s could not read its records", node.name)
        answer = Refusal(client=node.name, reason="its records do not fit the schema; its own log says why")
    except FedpipeError as error:
        answer = Refusal(client=node.name, reason=str(error), kind=type(error).__name__)
    except Exception:
        logger.exception("%s could not answer", node.name)
        answer = Refusal(client=node.name, reason="the client failed; its own log says why")
    return reply_to_message(answer, message)
