"""What does not agree within a certificate. Every difference is one line that begins with what differs."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from fedpipe.ledger.attestation import Attestation, plan_digest
from fedpipe.ledger.certificate import BlockCost, Certificate, ChargedQuery, EarlierRun, MechanismStatement
from fedpipe.ledger.certificate_making import (
    charged_queries,
    mechanism_statements,
    planned_releases,
    privacy_statement,
    sampling_statement,
)
from fedpipe.privacy import PrivacyPlan

# The last digits of a convolution depend on the machine.
TOLERANCE = 1e-6
ASKS_NOBODY = {"preprocess"}
"""Steps that release nothing when the schema declares all that they would ask for."""
_SHARED = PrivacyPlan.model_fields.keys() - {"version", "epsilon", "delta", "queries"}
"""What a plan whose results are used again must have in common with the plan that uses them."""


def content_differences(certificate: Certificate, recomputed: Mapping[str, float]) -> Iterator[str]:
    """Returns where epsilon, events and statements are not what events, plan and digests imply."""
    yield from _epsilon(certificate, recomputed)
    yield from _statements(certificate)
    yield from _blocks(certificate)
    yield from _releases(certificate)
    for earlier in certificate.earlier_runs:
        yield from _earlier(certificate, earlier)


def _epsilon(certificate: Certificate, recomputed: Mapping[str, float]) -> Iterator[str]:
    for block in certificate.blocks:
        found = recomputed.get(block.split, math.inf)
        if not _close(block.epsilon, found):
            yield f"block {block.split}: epsilon is {block.epsilon:.6g}, its events imply {found:.6g}"
    stated, implied = certificate.privacy.epsilon, max(recomputed.values(), default=None)
    if (stated is None) != (implied is None) or not _close(stated or 0.0, implied or 0.0):
        yield f"privacy.epsilon: {_number(stated)}, the events imply {_number(implied)}"


def _close(stated: float, found: float) -> bool:
    return math.isclose(stated, found, rel_tol=TOLERANCE, abs_tol=TOLERANCE)


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.6g}"


def _statements(certificate: Certificate) -> Iterator[str]:
    """Returns the names of statements that the plan does not imply; epsilon has its own check."""
    plan = certificate.plan
    if certificate.plan_sha256 != plan_digest(plan):
        yield "plan_sha256: it is not the digest of the plan"
    stated, implied = certificate.privacy.model_dump(), privacy_statement(plan).model_dump()
    for name in sorted(stated.keys() - {"epsilon", "accountant"}):
        if stated[name] != implied[name]:
            yield f"privacy.{name}: {stated[name]!r}, the plan implies {implied[name]!r}"
    if certificate.sampling != sampling_statement(plan):
        yield "sampling: the statement is not what the plan implies"
    if _by_query(certificate.mechanisms) != _by_query(mechanism_statements(plan)):
        yield "mechanisms: the statements are not what the plan implies"
    if set(certificate.spans) != {each.span for each in certificate.commitments}:
        yield "spans: they are not those of the commitments"


def _by_query(statements: tuple[MechanismStatement, ...]) -> list[MechanismStatement]:
    return sorted(statements, key=lambda each: each.query)


def _blocks(certificate: Certificate) -> Iterator[str]:
    plan = certificate.plan
    expected: set[str] = set(plan.splits) if plan.private else set()
    counted = Counter(block.split for block in certificate.blocks)
    for split in sorted(expected - counted.keys()):
        yield f"block {split}: the plan has it, the certificate does not"
    for split in sorted(counted.keys() - expected):
        yield f"block {split}: the plan does not have it"
    for block in certificate.blocks:
        if counted[block.split] > 1:
            yield f"block {block.split}: it is listed twice"
        elif block.split in expected:
            yield from _events(block, charged_queries(plan, block.split))


def _events(block: BlockCost, planned: tuple[ChargedQuery, ...]) -> Iterator[str]:
    expected = {each.query: each for each in planned}
    for name in sorted(expected.keys() - {each.query for each in block.queries}):
        yield f"block {block.split}: the event of {name} is missing"
    for name, number in Counter(each.query for each in block.queries).items():
        if number > 1:
            yield f"block {block.split}: the event of {name} is listed {number} times"
    for each in block.queries:
        if each.query not in expected:
            yield f"block {block.split}: the plan has no query {each.query}"
        elif each != expected[each.query]:
            yield f"block {block.split}: the event of {each.query} is not what the plan charges"


def _releases(certificate: Certificate) -> Iterator[str]:
    counted = Counter(each.step for each in certificate.releases)
    planned = {query.step for query in certificate.plan.queries.values()}
    for step in sorted(planned - counted.keys()):
        yield f"releases: step {step} is missing"
    for each in certificate.releases:
        if counted[each.step] > 1:
            yield f"releases: step {each.step} is listed twice"
        if each.planned_per_client != planned_releases(certificate.plan, each.step):
            yield f"releases: step {each.step} has another number planned than in the plan"
        attesting = sum(one.statement.run_id == each.run_id for one in certificate.attestations)
        if certificate.plan.private and (each.made or 0) > each.planned_per_client * attesting:
            yield f"releases: step {each.step} made more than its {attesting} clients had planned"
        if each.made == 0 and each.step not in ASKS_NOBODY:
            yield f"releases: step {each.step} released nothing, so that no run can have ended with it"
    clients = {each.client for each in certificate.commitments}
    for name in sorted({each.client for each in certificate.dropouts} - clients):
        yield f"dropouts: {name} committed to no records"


def _earlier(certificate: Certificate, earlier: EarlierRun) -> Iterator[str]:
    plan, before = certificate.plan, earlier.plan
    if earlier.plan_sha256 != plan_digest(before):
        yield f"earlier run {earlier.run_id}: plan_sha256 is not the digest of its plan"
    for name in sorted(_SHARED):
        if getattr(before, name) != getattr(plan, name):
            yield f"earlier run {earlier.run_id}: its {name} is another"
    for step in earlier.steps:
        if _of_step(before, step) != _of_step(plan, step):
            yield f"earlier run {earlier.run_id}: its plan released {step} in another way"


def _of_step(plan: PrivacyPlan, step: str) -> dict[str, object]:
    return {name: query for name, query in plan.queries.items() if query.step == step}


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """A run that asked for some steps, with the digests that its clients must have vouched for."""

    run_id: str
    steps: frozenset[str]
    plan_sha256: str
    terms_sha256: str


def attestation_differences(certificate: Certificate, known: Mapping[str, str]) -> Iterator[str]:
    """Returns what the clients have not vouched for as the certificate says; `known` are keys by client."""
    counted = Counter((each.statement.run_id, each.statement.client) for each in certificate.attestations)
    for (run_id, client), number in counted.items():
        if number > 1:
            yield f"client {client}: there are {number} attestations for run {run_id}"
    for attestation in certificate.attestations:
        yield from _signer(attestation, known)
    for step in certificate.releases:
        if step.run_id not in {certificate.run_id, *(each.run_id for each in certificate.earlier_runs)}:
            yield f"step {step.step}: its results are those of run {step.run_id}, whose plan is not here"
    for asked in _runs_asked(certificate):
        yield from _run_differences(certificate, asked)
    for name in sorted(known.keys() - {each.statement.client for each in certificate.attestations}):
        yield f"client {name}: you gave its key, and it vouches for nothing here"


def _signer(attestation: Attestation, known: Mapping[str, str]) -> Iterator[str]:
    client, key = attestation.statement.client, attestation.signature.public_key
    if not attestation.is_genuine:
        yield f"client {client}: the signature of its attestation does not fit"
    if client in known and known[client] != key:
        yield f"client {client}: its attestation is signed by {key}, not by the key that you gave"


def _runs_asked(certificate: Certificate) -> Iterator[_Asked]:
    plans = {each.run_id: (each.plan_sha256, each.terms_sha256) for each in certificate.earlier_runs}
    plans[certificate.run_id] = (certificate.plan_sha256, certificate.terms_sha256)
    steps: dict[str, set[str]] = {}
    for each in certificate.releases:
        if each.made != 0:
            steps.setdefault(each.run_id, set()).add(each.step)
    for run_id in steps.keys() & plans.keys():
        plan, terms = plans[run_id]
        yield _Asked(run_id=run_id, steps=frozenset(steps[run_id]), plan_sha256=plan, terms_sha256=terms)


def _run_differences(certificate: Certificate, asked: _Asked) -> Iterator[str]:
    refused = {each.client for each in certificate.refused_claims if each.run_id == asked.run_id}
    found = {
        each.statement.client: each
        for each in certificate.attestations
        if each.statement.run_id == asked.run_id
    }
    committed: dict[str, dict[str, str]] = {}
    for each in certificate.commitments:
        committed.setdefault(each.client, {})[each.span] = each.hmac_sha256
    if not found:
        yield f"run {asked.run_id}: no client vouches for it"
    for client in sorted(committed.keys() - found.keys() - refused):
        yield f"client {client}: it vouches for nothing in run {asked.run_id}"
    for client, attestation in sorted(found.items()):
        if client in refused:
            yield f"client {client}: it refused the claim of run {asked.run_id}, and yet vouches for it"
        elif client in committed:
            code = certificate.code.clients.get(client, "")
            yield from _statement_differences(attestation, asked, committed[client], code)
        else:
            yield f"client {client}: it vouches for run {asked.run_id}, and committed to no records"


def _statement_differences(
    attestation: Attestation, asked: _Asked, commitments: Mapping[str, str], code: str
) -> Iterator[str]:
    said = attestation.statement
    agreed = {
        "plan (plan_sha256)": said.plan_sha256 == asked.plan_sha256,
        "terms (terms_sha256)": said.terms_sha256 == asked.terms_sha256,
        "records (commitments)": said.commitments == commitments,
        "code (code_sha256)": said.code_sha256 == code,
    }
    for name in (name for name, same in agreed.items() if not same):
        yield f"client {said.client}: it vouched for another {name} in run {asked.run_id}"
    for step in sorted(asked.steps - set(said.steps)):
        yield f"client {said.client}: it did not vouch for step {step} in run {asked.run_id}"
