"""Budgets of blocks: reserved before a run, committed at each release."""

from fedpipe.ledger.admission import Spending
from fedpipe.ledger.blocks import Block, BlockPolicy, policy_for_budget, policy_for_runs
from fedpipe.ledger.claims import ReleaseId
from fedpipe.ledger.costs import StepCost
from fedpipe.ledger.entries import Entry, SignedHead
from fedpipe.ledger.ledger import Ledger, utc_now
from fedpipe.ledger.stores import LedgerStore

__all__ = [
    "Block",
    "BlockPolicy",
    "Entry",
    "Ledger",
    "LedgerStore",
    "ReleaseId",
    "SignedHead",
    "Spending",
    "StepCost",
    "policy_for_budget",
    "policy_for_runs",
    "utc_now",
]
