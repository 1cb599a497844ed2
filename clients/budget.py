"""What a node's own ledger says of its blocks."""

from __future__ import annotations

from typing import Any

from clients.home import NodeHome
from fedpipe.ledger import Ledger


def list_blocks(home: NodeHome) -> list[dict[str, Any]]:
    """Returns a row for every block: its budget, and what runs hold of it."""
    if not home.ledger_path.exists():
        return []
    with Ledger(home.ledger_path) as ledger:
        found = ledger.spending()
    return [
        {
            "span": each.block.span,
            "split": each.block.split,
            "epsilon": each.policy.epsilon,
            "delta": each.policy.delta,
            "used": each.held / each.budget,
            "releases": each.num_releases,
        }
        for each in sorted(found, key=lambda each: each.block)
    ]
