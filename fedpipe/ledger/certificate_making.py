"""What a certificate says of a plan: its mechanisms in words, its events, its epsilon by split."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fedpipe.ledger.attestation import Attestation, plan_digest
from fedpipe.ledger.certificate import (
    BlockCost,
    Certificate,
    ChargedQuery,
    CodeDigests,
    Commitment,
    Dropout,
    EarlierRun,
    MechanismStatement,
    PrivacyStatement,
    RefusedClaim,
    StepReleases,
)
from fedpipe.privacy import (
    DpSgd,
    NoisyHistograms,
    PrivacyPlan,
    Query,
    accountant_name,
    event_to_json,
)


def make_certificate(
    plan: PrivacyPlan,
    *,
    run_id: str,
    model: str,
    model_version: int,
    commitments: Sequence[Commitment],
    dropouts: Sequence[Dropout] = (),
    issued_at: str = "",
    terms_sha256: str = "",
    refused_claims: Sequence[RefusedClaim] = (),
    attestations: Sequence[Attestation] = (),
    releases: Sequence[StepReleases] = (),
    earlier_runs: Sequence[EarlierRun] = (),
    code: CodeDigests | None = None,
    versions: dict[str, str] | None = None,
) -> Certificate:
    """Returns the certificate of a run under `plan`, not signed yet."""
    return Certificate(
        run_id=run_id,
        model=model,
        model_version=model_version,
        issued_at=issued_at,
        privacy=privacy_statement(plan),
        blocks=tuple(_block_cost(plan, split) for split in plan.splits) if plan.private else (),
        sampling=sampling_statement(plan),
        mechanisms=mechanism_statements(plan),
        plan=plan,
        plan_sha256=plan_digest(plan),
        terms_sha256=terms_sha256,
        spans=tuple(dict.fromkeys(commitment.span for commitment in commitments)),
        commitments=tuple(commitments),
        refused_claims=tuple(refused_claims),
        attestations=tuple(attestations),
        releases=tuple(releases),
        dropouts=tuple(dropouts),
        earlier_runs=tuple(earlier_runs),
        code=code or CodeDigests(),
        versions=versions or {},
    )


def privacy_statement(plan: PrivacyPlan) -> PrivacyStatement:
    """Returns what may be said of a run under `plan`."""
    return PrivacyStatement(
        status="private" if plan.private else "NOT PRIVATE",
        unit=plan.unit,
        user=plan.user,
        neighboring_relation=plan.neighboring_relation,
        epsilon=plan.total_epsilon() if plan.private else None,
        delta=plan.delta if plan.private else None,
        accountant=accountant_name(),
        randomness=_randomness(plan),
        arithmetic="gradient sums: float32, real-valued analysis; counts: exact integers",
    )


def sampling_statement(plan: PrivacyPlan) -> str:
    """Returns what is drawn at random, and what is claimed for it."""
    return (
        f"Each client draws every {plan.unit} independently (Poisson) in every local step; all clients are "
        "asked in every round, and no amplification is claimed for that."
    )


def mechanism_statements(plan: PrivacyPlan) -> tuple[MechanismStatement, ...]:
    """Returns in words what the queries of `plan` do to a unit."""
    return tuple(_mechanism_statement(name, query, plan.unit) for name, query in plan.queries.items())


def charged_queries(plan: PrivacyPlan, split: str) -> tuple[ChargedQuery, ...]:
    """Returns what `plan` charges a record of `split`."""
    return tuple(
        ChargedQuery(query=name, step=query.step, event=event_to_json(query.events))
        for name, query in plan.queries_for(split).items()
    )


def planned_releases(plan: PrivacyPlan, step: str) -> int:
    """Returns how often each client answers `step` at most: every answer is a release of all its queries."""
    of_step = (query for query in plan.queries.values() if query.step == step)
    return max((query.mechanism.num_releases for query in of_step), default=0)


def _mechanism_statement(name: str, query: Query, unit: str) -> MechanismStatement:
    mechanism = query.mechanism
    if isinstance(mechanism, DpSgd):
        return _dp_sgd_statement(name, query.step, mechanism, unit)
    return _histogram_statement(name, query.step, mechanism, unit)


def _dp_sgd_statement(name: str, step: str, mechanism: DpSgd, unit: str) -> MechanismStatement:
    return MechanismStatement(
        query=name,
        step=step,
        sampling=f"Poisson: every {unit} with probability {mechanism.sampling_probability:g} in each of "
        f"{mechanism.num_rounds} x {mechanism.local_steps} local steps",
        clipping=f"each {unit}'s gradient to L2 norm {mechanism.clipping_norm:g}",
        noise=f"normal, standard deviation {mechanism.noise_multiplier:g} x the clipping norm in every "
        "coordinate of the sum",
        arithmetic="float32; the analysis is that of real numbers",
    )


def _histogram_statement(name: str, step: str, mechanism: NoisyHistograms, unit: str) -> MechanismStatement:
    k = mechanism.max_records
    most = "one to one cell" if k == 1 else f"{k} in all to the cells"
    draws = "discrete Gaussian, parameter" if k == 1 else f"the sum of {k} discrete Gaussians, together"
    return MechanismStatement(
        query=name,
        step=step,
        sampling=f"none: every {unit} counts",
        clipping=f"a {unit} adds at most {most} of each of {mechanism.num_histograms} histograms",
        noise=f"{draws} sigma {mechanism.noise_stddev:g} in every cell",
        arithmetic="exact integers",
    )


def _randomness(plan: PrivacyPlan) -> str:
    if plan.randomness == "seeded":
        return "seeded: repeatable, for tests, protects nobody"
    return "secure: operating system's generator at each client"


def _block_cost(plan: PrivacyPlan, split: Any) -> BlockCost:
    return BlockCost(split=split, epsilon=plan.epsilon_of(split), queries=charged_queries(plan, split))
