"""The ClientApp: Flower's messages in, a node's answers out."""

from __future__ import annotations

import logging
from collections.abc import Callable

from clients import handlers
from clients.node import Node
from fedpipe.errors import BudgetError, DataError, FederationError, LedgerError, PrivacyError
from fedpipe.federation import Refusal, Reply, Request
from fedpipe.federation.flower_messages import message_to_request, reply_to_message

from flwr.app import Context, Message  # isort: skip
from flwr.clientapp import ClientApp  # isort: skip

logger = logging.getLogger(__name__)

# Errors whose texts are functions of public values: of settings, plans, budgets and requests.
TELLING = (BudgetError, LedgerError, FederationError, PrivacyError)

app = ClientApp()


@app.query("ingest")
def ingest(message: Message, context: Context) -> Message:
    """Commits to the records of a run."""
    return _answer(handlers.ingest, message, context)


@app.query("claim")
def claim(message: Message, context: Context) -> Message:
    """Accepts or refuses a run."""
    return _answer(handlers.claim, message, context)


@app.query("statistics")
def statistics(message: Message, context: Context) -> Message:
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
    name = str(context.node_config.get("client", "unnamed"))
    answer: Reply | Refusal
    try:
        node, request = Node.from_config(context.node_config), message_to_request(message)
        node.exchange(request.heads)
        answer = node.with_heads(handler(node, request), request.heads)
    except TELLING as error:
        logger.warning("Refused: %s", error)
        details = error.shortfalls if isinstance(error, BudgetError) else ()
        answer = Refusal(client=name, reason=str(error), kind=type(error).__name__, shortfalls=details)
    except DataError as error:
        # What is wrong with records is for their owner's eyes.
        logger.error("%s could not read its records. %s", name, error)
        answer = Refusal(client=name, reason="its records cannot be read; its own log says why")
    except Exception:
        logger.exception("%s could not answer", name)
        answer = Refusal(client=name, reason="the client failed; its own log says why")
    return reply_to_message(answer, message)
