from __future__ import annotations

from collections.abc import Callable

import pytest

from fedpipe.files import digest_json
from fedpipe.ledger.certificate import Certificate, Commitment, Dropout
from fedpipe.ledger.certificate_making import make_certificate
from fedpipe.privacy import PrivacyPlan


def certify(plan: PrivacyPlan) -> Certificate:
    return make_certificate(
        plan,
        run_id="r1",
        model="complaints",
        model_version=3,
        commitments=(Commitment(client="ada", span="undated", hmac_sha256="ab" * 32),),
        dropouts=(Dropout(server_round=2, client="ada"),),
        versions={"fedpipe": "0.1.0"},
    )


@pytest.mark.parametrize("keyed", [True, False])
def test_epsilon_can_be_recomputed_from_the_text_alone(
    planner: Callable[..., PrivacyPlan], keyed: bool
) -> None:
    plan = planner(keyed=keyed)
    text = certify(plan).model_dump_json()
    certificate = Certificate.model_validate_json(text)
    assert certificate.privacy.epsilon == plan.total_epsilon()
    assert certificate.recompute_epsilon() == pytest.approx(plan.total_epsilon(), rel=1e-9)
    assert {block.split: block.epsilon for block in certificate.blocks} == {
        split: plan.epsilon_of(split) for split in plan.splits
    }


def test_a_certificate_lists_what_each_record_may_pay(planner: Callable[..., PrivacyPlan]) -> None:
    certificate = certify(planner())
    assert {block.split: {query.query for query in block.queries} for block in certificate.blocks} == {
        "train": {"labels", "columns", "features", "training"},
        "eval": {"labels", "columns", "evaluation"},
    }
    assert certificate.plan_sha256 == digest_json(planner().model_dump(mode="json"))
    assert (certificate.privacy.unit, certificate.privacy.neighboring_relation) == (
        "record",
        "add_or_remove_one",
    )


def test_a_run_without_privacy_is_certified_as_that(not_private: PrivacyPlan) -> None:
    certificate = certify(not_private)
    assert certificate.privacy.status == "NOT PRIVATE"
    assert certificate.privacy.epsilon is None
    assert certificate.recompute_epsilon() is None
    assert certificate.blocks == ()
