"""What only a simulation knows of a finished run: the referee's exact figures, and the owners' ledger."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from fedpipe.files import digest_json
from fedpipe.ledger import Ledger
from fedpipe.reports.evidence import Budget, Repetition, RunEvidence
from fedpipe.reports.summary import RunSummary
from server import outcome as outcomes
from server.claims import read_claim
from server.outcome import Outcome
from simulations.budgets import read_budgets
from simulations.population import Population
from simulations.referee import judge_once


def summarize(outcome: Outcome, population: Population, *, owners_log: Path) -> RunSummary:
    """Returns the run's summary, with what only its simulation knows."""
    exact = judge_once(
        population.clients[0].source.parent,
        _judged(outcome),
        outcome.config,
        population.clients,
        transform=outcome.version.transform,
        model_path=outcome.model_path,
    )
    warnings = (*_owners_warnings(outcome, owners_log), *population.notes)
    return outcomes.summarize(outcome, warnings=warnings, budgets=_budgets(outcome), simulation_only=exact)


def gather_evidence(outcome: Outcome, repetition: Repetition) -> RunEvidence:
    """Returns what the run's report shows beside the summary."""
    return outcomes.gather_evidence(
        outcome, releases=_releases(outcome), budgets=_budgets(outcome), repetition=repetition
    )


def _owners_warnings(outcome: Outcome, owners_log: Path) -> Iterator[str]:
    if outcome.spans.refusals and owners_log.exists():
        yield f"What the simulated clients logged: {owners_log}"


def _budgets(outcome: Outcome) -> tuple[Budget, ...]:
    ledger, certificate = outcome.workspace.ledger_path, outcome.version.certificate
    claim = read_claim(outcome.workspace.runs_dir / outcome.run_id)
    claimed = claim.steps if claim else ()
    return tuple(read_budgets(ledger, certificate, outcome.config.name, claimed=claimed))


def _judged(outcome: Outcome) -> str:
    """Returns a digest of the model and of the records that it is judged on."""
    version = outcome.version.model_dump(mode="json")
    return digest_json([version, outcome.spans.model_dump(mode="json"), outcome.config.eval_fraction])


def _releases(outcome: Outcome) -> dict[str, int]:
    with Ledger(outcome.workspace.ledger_path) as ledger:
        return {step: cost.num_releases for step, cost in ledger.costs(outcome.run_id).items()}
