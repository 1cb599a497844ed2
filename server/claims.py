"""The claim of a run: made before the first charged question, for the steps that are still to be asked.

A run whose steps all come from the cache asks nobody, so it claims nothing. The steps are
written down before anybody is asked, so that a resumed run adopts its claim as it stands.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from fedpipe.errors import WorkspaceError
from fedpipe.federation import Clients, Refusal, Reply, Request
from fedpipe.federation.cohort import ask_cohort
from fedpipe.federation.terms import RunTerms
from fedpipe.files import write_text
from fedpipe.pipeline import ExecutionRecord

CLAIM = "claim.json"
CHARGED = ("statistics", "preprocess", "train", "analyze")
"""The steps that ask for charged releases, in the order of the cycle."""


class Claim(BaseModel):
    """What a run claimed: the steps that may cost something, and who refused, with the reason.

    Nothing was released before the claim was `answered`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: tuple[str, ...]
    answered: bool = False
    refusals: dict[str, str] = {}


def read_claim(directory: Path) -> Claim | None:
    """Returns the claim of the run in `directory`, or None if there is none that can be read."""
    try:
        return Claim.model_validate_json((directory / CLAIM).read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


def first_charged(executions: Iterable[ExecutionRecord]) -> str | None:
    """Returns the first charged step that a run began itself: with it, its claim begins.

    The paper trail knows it even when the claim's own file is gone.
    """
    begun = {execution.step for execution in executions if execution.state != "CACHED"}
    return next((step for step in CHARGED if step in begun), None)


class ClaimingClients:
    """Implements `Clients` over others, and claims before the first charged step is asked.

    `first` is where the claim of an earlier process began, for when its file was lost.
    """

    def __init__(
        self, clients: Clients, *, run_id: str, terms: RunTerms, directory: Path, first: str | None = None
    ) -> None:
        self._clients = clients
        self._run_id = run_id
        self._terms = terms
        self._directory = directory
        self._first = first
        self._claimed: Collection[str] = ()

    def ask(
        self, request: Request, *, timeout_seconds: float, only: Collection[str] | None = None
    ) -> tuple[list[Reply], list[Refusal]]:
        """Returns the answers and the refusals; see `Clients`.

        Raises:
          BudgetError, FederationError: too few clients accept the claim.
          WorkspaceError: the run's claim leaves `request.step` out.
        """
        if request.step in CHARGED and request.step not in self._claimed:
            self._claim(request.step)
        return self._clients.ask(request, timeout_seconds=timeout_seconds, only=only)

    def _claim(self, step: str) -> None:
        claim = read_claim(self._directory) or Claim(steps=CHARGED[CHARGED.index(self._first or step) :])
        if step not in claim.steps:
            raise WorkspaceError(
                f"Expected the files of step {step}, which this run found complete before, found them gone: "
                "start a new run with --fresh."
            )
        self._write(claim)
        values = {
            "terms": self._terms.model_dump(mode="json", by_alias=True),
            "steps": list(claim.steps),
        }
        request = Request(run_id=self._run_id, step="claim", values=values)
        refusals = ask_cohort(self._clients, request, self._terms.training).refusals
        said = {each.client: each.reason for each in refusals}
        self._write(claim.model_copy(update={"answered": True, "refusals": said}))
        self._claimed = claim.steps

    def _write(self, claim: Claim) -> None:
        write_text(self._directory / CLAIM, claim.model_dump_json(indent=2) + "\n")
