"""What all steps that ask clients share."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from fedpipe.federation import Clients, Reply, Request
from fedpipe.federation.cohort import Check, Cohort, ask_cohort
from fedpipe.federation.messages import counts_of
from fedpipe.federation.terms import RunTerms
from fedpipe.privacy import NoisyHistograms

Shapes: TypeAlias = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, kw_only=True)
class Asker:
    """A run's way to its clients."""

    clients: Clients
    run_id: str
    terms: RunTerms
    on_note: Callable[[str], None] = field(default=lambda _text: None, compare=False)

    def ask(self, request: Request, among: Collection[str], counts: Shapes) -> list[Reply]:
        """Returns the answers of those clients of `among` that gave one, or raises when they are too few.

        An answer has all of `counts`, arrays of whole numbers by name; any other counts as a refusal.
        """

        def check(reply: Reply) -> None:
            for name, shape in counts.items():
                counts_of(reply, name, shape)

        return self.ask_all(request, among=among, check=check).replies

    def ask_all(
        self, request: Request, *, among: Collection[str] | None = None, check: Check | None = None
    ) -> Cohort:
        """Returns what the cohort came to, as `ask_cohort` does, and tells whom the run goes on without."""
        cohort = ask_cohort(self.clients, request, self.terms.training, among=among, check=check)
        if cohort.missing:
            self.on_note(f"Goes on without an answer to {request.step} from {cohort.missing}")
        return cohort

    def noise_stddev(self, query: str) -> float:
        """Returns the noise that each client adds to each cell of a counting query; 0 without privacy."""
        found = self.terms.plan.queries.get(query)
        return found.mechanism.noise_stddev if found and isinstance(found.mechanism, NoisyHistograms) else 0.0
