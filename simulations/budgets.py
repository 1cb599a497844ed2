"""What a run left of the lifetime budgets of simulated records. In a federation, only owners know."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from fedpipe.ledger import Ledger
from fedpipe.ledger.admission import Spending
from fedpipe.ledger.certificate import Certificate
from fedpipe.privacy.accounting import renyi_divergence
from fedpipe.reports.evidence import Budget


def read_budgets(ledger_path: Path, certificate: Certificate, problem: str) -> Iterator[Budget]:
    """Returns, for every split that the run charges, the budget of the client that has least left.

    All of it follows from public plans and policies: no figure depends on a record.
    """
    if not certificate.blocks:
        return
    accounts = {
        f"{prefix}.{each.client}"
        for each in certificate.commitments
        for prefix in (problem, f"{problem}.built-in")
    }
    with Ledger(ledger_path) as ledger:
        spent = [spending for spending in ledger.spending() if spending.block.client in accounts]
    for split in certificate.plan.splits:
        of_split = [spending for spending in spent if spending.block.split == split]
        if of_split:
            yield _budget(min(of_split, key=_share_left), certificate, split)


def _share_left(spending: Spending) -> float:
    return spending.remaining / spending.budget


def _budget(spending: Spending, certificate: Certificate, split: str) -> Budget:
    order = spending.policy.renyi_order
    queries = certificate.plan.queries.values()
    cost = sum(renyi_divergence(query.events, order) for query in queries if split in query.splits)
    return Budget(
        split=split,
        epsilon=spending.policy.epsilon,
        delta=spending.policy.delta,
        used=1 - _share_left(spending),
        runs_left=int(spending.remaining / cost * (1 + 1e-9)),
    )
