"""The exceptions that fedpipe raises on purpose.

    FedpipeError
    +-- ConfigError        a setting, flag or path is wrong        (also ValueError)
    +-- DataError          a file, column or cell is wrong         (also ValueError)
    +-- PrivacyError       a mechanism or an event is unsound      (also ValueError)
    +-- BudgetError        a claim that a block's budget refuses
    +-- LedgerError        the ledger is missing, foreign or inconsistent
    +-- FederationError    too few clients answered, or one refused
    +-- PipelineError      the graph of steps is wrong             (also ValueError)
    +-- WorkspaceError     the workspace is locked, foreign or damaged
    +-- EncryptedError     an encrypted prediction was refused, failed, or cannot be relied on

Every message says what was expected, what was found and what to do. No message holds a
record, an update, a key or a plaintext.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass


class FedpipeError(Exception):
    """Base of all errors that the command line shows as one line."""

    exit_code = 2


class ConfigError(FedpipeError, ValueError):
    """A setting, a flag or a path that cannot be used."""


class DataError(FedpipeError, ValueError):
    """A file, a column or a cell that cannot be read as the schema says."""


class PrivacyError(FedpipeError, ValueError):
    """A mechanism, an event or a plan for which no guarantee can be stated."""


@dataclass(frozen=True, kw_only=True)
class Shortfall:
    """A block that refused a claim: Renyi divergences at the block's order, and its lifetime budget."""

    block: str
    split: str
    requested: float
    remaining: float
    renyi_order: int
    epsilon: float
    delta: float


class BudgetError(FedpipeError):
    """A claim that would exceed what a block may spend. Nothing was changed."""

    exit_code = 3

    def __init__(self, message: str, shortfalls: Iterable[Shortfall] = ()) -> None:
        super().__init__(message)
        self.shortfalls = tuple(shortfalls)


class LedgerError(FedpipeError):
    """A ledger that is missing, foreign, inconsistent, or asked for the impossible."""


class FederationError(FedpipeError):
    """Clients refused, failed, or were too few."""


class PipelineError(FedpipeError, ValueError):
    """A graph of steps that cannot be run."""


class WorkspaceError(FedpipeError):
    """A workspace that is in use, is not one, or is damaged."""


class EncryptedError(FedpipeError):
    """An encrypted prediction that was refused, that failed, or whose answer cannot be relied on."""


def nearest(name: str, valid: Iterable[str]) -> str:
    """Returns a sentence that names the valid names closest to `name`.

    >>> nearest("epsilom", ["epsilon", "delta"])
    'Did you mean epsilon?'
    """
    valid = sorted(valid)
    close = difflib.get_close_matches(name, valid, n=3)
    if close:
        return f"Did you mean {' or '.join(close)}?"
    return f"Valid names: {', '.join(valid)}."
