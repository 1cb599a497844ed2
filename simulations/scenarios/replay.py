"""What the ledger should have done, from public plans alone, beside what it did.

An independent second opinion on admission: it knows the plans, the order of the runs, who was there and
which runs were stopped, and adds divergences up by itself. It reads the ledger only to compare.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field

from fedpipe.errors import LedgerError
from fedpipe.federation.terms import RunTerms
from fedpipe.ledger import Block, BlockPolicy, Ledger, policy_for_runs
from fedpipe.ledger.admission import Spending
from fedpipe.pipeline import Workspace
from fedpipe.privacy import PrivacyPlan
from fedpipe.privacy.accounting import renyi_divergence
from server.history import TERMS
from simulations.scenarios.outcomes import Attempt, Fate, Week
from simulations.scenarios.settings import Scenario

# Holdings are sums in another order than the ledger's.
TOLERANCE = 1e-9
CHARGED: dict[Fate, tuple[str, ...]] = {
    "trained": ("statistics", "preprocess", "train", "analyze"),
    "stopped": ("statistics",),
    "refused": (),
    "too few": (),
}
"""The steps whose releases a run of each fate has made, and paid."""


@dataclass(kw_only=True)
class Account:
    """What the replay holds a block to have spent, as Renyi divergence at its policy's order."""

    budget: float
    held: float = 0.0
    num_releases: int = 0
    num_trainings: int = 0
    num_runs: int = 0

    @property
    def used(self) -> float:
        """The share of the budget that is spent."""
        return self.held / self.budget


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The replay's accounts, and every point on which the ledger and it do not agree."""

    accounts: dict[Block, Account]
    faults: tuple[str, ...]
    num_admitted: int
    num_refused: int

    def check(self) -> None:
        """Raises LedgerError unless the filter admitted exactly what it should."""
        if self.faults:
            raise LedgerError(
                f"Expected the ledger to admit and to charge exactly what the budgets allow, found "
                f"{len(self.faults)} differences, the first of them: {self.faults[0]}. "
                "This is a defect: keep the workspace and report it."
            )


@dataclass(kw_only=True)
class Replay:
    """Follows a scenario week by week."""

    scenario: Scenario
    workspace: Workspace
    accounts: dict[Block, Account] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    num_admitted: int = 0
    num_refused: int = 0

    def follow(self, week: Week) -> None:
        """Decides on the claims of a week's runs, compares with what came of them, and charges releases."""
        for attempt in week.attempts:
            self._follow(week.number, attempt)

    def verdict(self) -> Verdict:
        """Returns the accounts so far, beside the ledger."""
        with Ledger(self.workspace.ledger_path) as ledger:
            faults = [*self.faults, *_differences(self.accounts, ledger.spending(), self.scenario.window)]
        return Verdict(
            accounts=self.accounts,
            faults=tuple(faults),
            num_admitted=self.num_admitted,
            num_refused=self.num_refused,
        )

    def _follow(self, number: int, attempt: Attempt) -> None:
        least = self.scenario.config(number).training.min_cohort
        if len(attempt.clients) < least:
            self._expect(attempt.fate == "too few", number, f"too few clients, found {attempt.fate}")
            return
        plan = self._plan(attempt.run_ids[0])
        policy = policy_for_runs(plan, self.scenario.window)
        admitted = tuple(
            client
            for client in attempt.clients
            if all(
                account.held + _cost(plan, split, policy.renyi_order) <= account.budget
                for split in plan.splits
                for account in self._opened(client, attempt.spans, split, policy)
            )
        )
        self.num_admitted += len(admitted)
        self.num_refused += len(attempt.clients) - len(admitted)
        if len(admitted) < least:
            self._expect(attempt.fate == "refused", number, f"a refusal by budgets, found {attempt.fate}")
            return
        self._expect(attempt.fate in ("trained", "stopped"), number, f"admission, found {attempt.fate}")
        self._expect(
            attempt.accepted == admitted, number, f"claims of {admitted} admitted, found {attempt.accepted}"
        )
        for client in admitted:
            self._charge(client, attempt, plan, policy)

    def _charge(self, client: str, attempt: Attempt, plan: PrivacyPlan, policy: BlockPolicy) -> None:
        steps = CHARGED[attempt.fate]
        for split in plan.splits:
            queries = plan.queries_for(split, steps).values()
            for account in self._opened(client, attempt.spans, split, policy):
                account.held += _cost(plan, split, policy.renyi_order, steps)
                account.num_releases += sum(query.mechanism.num_releases for query in queries)
                account.num_trainings += attempt.fate == "trained"
                account.num_runs += 1

    def _opened(
        self, client: str, spans: Sequence[str], split: str, policy: BlockPolicy
    ) -> Iterator[Account]:
        name = f"{self.scenario.problem['name']}.{client}"
        for span in spans:
            block = Block(client=name, span=span, split=split)
            if block not in self.accounts:
                self.accounts[block] = Account(budget=policy.renyi_budget)
            yield self.accounts[block]

    def _plan(self, run_id: str) -> PrivacyPlan:
        path = self.workspace.runs_dir / run_id / TERMS
        return RunTerms.model_validate_json(path.read_bytes()).plan

    def _expect(self, holds: bool, number: int, words: str) -> None:
        if not holds:
            self.faults.append(f"week {number}: expected {words}")


def _cost(plan: PrivacyPlan, split: str, order: int, steps: Collection[str] | None = None) -> float:
    return sum(renyi_divergence(query.events, order) for query in plan.queries_for(split, steps).values())


def _differences(accounts: dict[Block, Account], spent: Sequence[Spending], window: int) -> Iterator[str]:
    known = {spending.block: spending for spending in spent}
    for block in sorted(known.keys() | accounts.keys()):
        account, spending = accounts.get(block), known.get(block)
        if account is None or spending is None:
            # A claim that is refused as a whole leaves no block behind at the ledger, or an empty one.
            spent_there = spending.held if spending else account.held if account else 0.0
            if spent_there:
                yield f"block {block}: expected one account, found {spent_there:.4g} spent on one side only"
            continue
        yield from (f"block {block}: {fault}" for fault in _faults(account, spending, window))


def _faults(account: Account, spending: Spending, window: int) -> Iterator[str]:
    if not math.isclose(spending.budget, account.budget, rel_tol=TOLERANCE):
        yield f"expected a budget of {account.budget:.6g}, found {spending.budget:.6g}"
    if not spending.held <= spending.budget:
        yield f"expected at most {spending.budget:.6g} spent, found {spending.held:.6g}"
    if not math.isclose(spending.held, account.held, rel_tol=TOLERANCE, abs_tol=TOLERANCE):
        yield f"expected {account.held:.6g} spent, found {spending.held:.6g}"
    if spending.num_releases != account.num_releases:
        yield f"expected {account.num_releases} releases, found {spending.num_releases}"
    if account.num_trainings > window:
        yield f"expected at most {window} trainings, found {account.num_trainings}"
