"""What a run left of the lifetime budgets of simulated records. In a federation, only owners know."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

from fedpipe.ledger import Ledger, epsilon_over_blocks
from fedpipe.ledger.admission import Spending
from fedpipe.ledger.certificate import Certificate
from fedpipe.privacy.accounting import renyi_divergence
from fedpipe.reports.evidence import Budget


def read_budgets(
    ledger_path: Path, certificate: Certificate, problem: str, *, claimed: Collection[str]
) -> Iterator[Budget]:
    """Returns, for every split that the run charges, the budget of the client that has least left.

    All of it follows from public plans and policies: no figure depends on a record. `claimed` are
    the steps that the run asked the clients for; what it took from earlier runs cost it nothing.
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
            yield _budget(min(of_split, key=_share_left), certificate, split, claimed)


def _share_left(spending: Spending) -> float:
    return spending.remaining / spending.budget


def _budget(spending: Spending, certificate: Certificate, split: str, claimed: Collection[str]) -> Budget:
    order = spending.policy.renyi_order
    queries = [query for query in certificate.plan.queries.values() if split in query.splits]
    num_spans = len({each.span for each in certificate.commitments})
    costs = [(query.step, renyi_divergence(query.events, order)) for query in queries]
    cost = sum(each for _, each in costs)
    return Budget(
        split=split,
        epsilon=spending.policy.epsilon,
        delta=spending.policy.delta,
        used=1 - _share_left(spending),
        by_this_run=sum(each for step, each in costs if step in claimed) / spending.budget,
        runs_left=int(spending.remaining / cost * (1 + 1e-9)),
        epsilon_of_user=epsilon_over_blocks(spending.policy, num_spans) if certificate.plan.user else None,
    )
