"""Budgets of blocks: reserved before a run, committed at each release."""

from fedpipe.ledger.admission import Spending
from fedpipe.ledger.blocks import (
    Block,
    BlockPolicy,
    epsilon_over_blocks,
    policy_for_budget,
    policy_for_runs,
)
from fedpipe.ledger.costs import StepCost
from fedpipe.ledger.ledger import Ledger, ReleaseId, utc_now

__all__ = [
    "Block",
    "BlockPolicy",
    "Ledger",
    "ReleaseId",
    "Spending",
    "StepCost",
    "epsilon_over_blocks",
    "policy_for_budget",
    "policy_for_runs",
    "utc_now",
]
