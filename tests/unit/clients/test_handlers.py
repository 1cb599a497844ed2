"""What leaves a node: every answer is charged, planned, repeatable and noisy."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from clients import handlers
from clients.node import Node
from clients.records import forget_records
from fedpipe.errors import BudgetError, FederationError, LedgerError, PrivacyError
from fedpipe.federation import Reply, Request
from fedpipe.federation.messages import encode_reply
from fedpipe.federation.terms import RunTerms
from fedpipe.learning import kernel
from fedpipe.learning.score_histograms import ScoreBins
from fedpipe.ledger import Ledger
from fedpipe.ledger.attestation import Attestation, Statement, plan_digest
from fedpipe.privacy import SeededRandomness
from fedpipe.provenance import code_digest
from fedpipe.scratch import Scratch
from fedpipe.signing import read_key

MakeTerms = Callable[..., RunTerms]
MakeNode = Callable[..., Node]
Offer = Callable[..., Request]

TRANSFORM = {
    "features": [
        {
            "type": "numeric",
            "column": "age",
            "lower": 0.0,
            "upper": 100.0,
            "center": 0.0,
            "scale": 100.0,
        }
    ],
    "missing_tokens": [""],
}
NOT_PRIVATE = {
    "private": False,
    "epsilon": 1.0,
    "delta": 1e-5,
    "keyed": True,
    "randomness": "secure",
    "queries": {},
}


class FakeKernel:
    """Sums the features of each batch, adds the noise, and remembers what it was given."""

    def __init__(self) -> None:
        self.tasks: list[kernel.LocalTask] = []

    def noisy_sums(self, task: kernel.LocalTask) -> np.ndarray[Any, Any]:
        self.tasks.append(task)
        total = sum(task.features[batch].sum(axis=0) for batch in task.batches)
        return np.asarray(total + task.noise.sum(axis=0), dtype=np.float32)


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> FakeKernel:
    """The kernel that the node trains with: TensorFlow takes seconds to import."""
    fake = FakeKernel()
    monkeypatch.setattr(kernel, "make_kernel", lambda name, definition: fake)
    return fake


def train_request(server_round: int = 1, **changes: Any) -> Request:
    request = Request(
        run_id="run-1",
        step="train",
        server_round=server_round,
        values={"transform": TRANSFORM, "local_step_sizes": {}},
        arrays={"weights": np.zeros(1, np.float32)},
    )
    return replace(request, **changes)


@pytest.fixture
def accepted(make_node: MakeNode, make_terms: MakeTerms, offer: Offer) -> Node:
    """A node that has accepted run-1."""
    node = make_node()
    handlers.claim(node, offer(make_terms()))
    return node


def num_releases(node: Node, run_id: str = "run-1") -> int:
    with Ledger(node.ledger) as ledger:
        return ledger.num_releases(run_id)


def test_an_ingest_reply_holds_nothing_observed(
    make_node: MakeNode, make_terms: MakeTerms, survey: Offer
) -> None:
    """Other records, any number of them: only the keyed commitment differs."""
    replies = []
    for lines in (["r1,30,ulm,y"], [f"x{n},{n},nowhere,?" for n in range(40)], []):
        node = make_node(lines=lines)
        replies.append(handlers.ingest(node, survey(make_terms())))
    expected = {
        "schema_version": "1",
        "code": code_digest("clients.handlers"),
        "spans": [{"name": "undated"}],
    }
    commitments = [reply.values["spans"][0].pop("commitment") for reply in replies]
    assert {encode_reply(reply) for reply in replies} == {
        encode_reply(Reply(client="client-1", values=expected))
    }
    assert len(set(commitments)) == 3
    assert not node.ledger.path.exists()
    assert all(len(commitment) == 64 for commitment in commitments)


def test_a_commitment_needs_the_node_s_key(make_node: MakeNode, make_terms: MakeTerms, survey: Offer) -> None:
    node = make_node()
    before = handlers.ingest(node, survey(make_terms(), "run-1")).values
    node.key_path.write_bytes(b"another key of enough bytes")
    after = handlers.ingest(node, survey(make_terms(), "run-2")).values
    assert before != after


def test_a_claim_reserves_the_whole_run_before_anything_is_answered(
    make_node: MakeNode, make_terms: MakeTerms, offer: Offer
) -> None:
    node = make_node(lifetime_runs=1)
    handlers.claim(node, offer(make_terms(), "run-1"))
    with Ledger(node.ledger) as ledger:
        spending = ledger.spending()
    assert max(block.held / block.budget for block in spending) == pytest.approx(1.0)
    assert all(block.held > 0 for block in spending)
    assert sum(block.num_releases for block in spending) == 0
    with pytest.raises(BudgetError, match=r"Requested: .*remaining: .*difference: "):
        handlers.claim(node, offer(make_terms(), "run-2"))


def test_the_same_offer_is_accepted_again_at_no_cost(
    make_node: MakeNode, make_terms: MakeTerms, offer: Offer
) -> None:
    node = make_node(lifetime_runs=1)
    first = handlers.claim(node, offer(make_terms()))
    assert encode_reply(handlers.claim(node, offer(make_terms()))) == encode_reply(first)


def test_a_client_vouches_for_what_it_claimed_with_a_key_beside_its_ledger(
    make_node: MakeNode, make_terms: MakeTerms, offer: Offer, survey: Offer
) -> None:
    node, terms = make_node(), make_terms()
    told = handlers.ingest(node, survey(terms)).values
    reply = handlers.claim(node, offer(terms, steps=["train", "analyze"]))
    attestation = Attestation.model_validate(reply.values["attestation"])
    assert attestation.is_genuine
    assert attestation.signature.public_key == read_key(node.ledger.key_path).public
    assert attestation.statement == Statement(
        run_id="run-1",
        client="client-1",
        account="client-1",
        steps=("train", "analyze"),
        plan_sha256=plan_digest(terms.plan),
        terms_sha256=terms.digest,
        commitments={span["name"]: span["commitment"] for span in told["spans"]},
        code_sha256=told["code"],
    )


def test_an_edited_attestation_is_not_genuine(
    make_node: MakeNode, make_terms: MakeTerms, offer: Offer
) -> None:
    found = Attestation.model_validate(handlers.claim(make_node(), offer(make_terms())).values["attestation"])
    for name, value in found.statement.model_dump().items():
        if name not in ("kind", "version"):
            other = (
                {"undated": ""} if name == "commitments" else ("train",) if name == "steps" else value + "x"
            )
            edited = found.statement.model_copy(update={name: other})
            assert not found.model_copy(update={"statement": edited}).is_genuine


def test_a_client_whose_key_cannot_be_used_reserves_nothing_and_tells_no_path(
    make_node: MakeNode, make_terms: MakeTerms, offer: Offer
) -> None:
    node = make_node()
    with Ledger(node.ledger):
        key = node.ledger.key_path.read_bytes()
    node.ledger.key_path.write_text("no key")
    with pytest.raises(LedgerError, match="own log says why") as caught:
        handlers.claim(node, offer(make_terms()))
    assert str(node.ledger) not in str(caught.value)
    node.ledger.key_path.write_bytes(key)
    with Ledger(node.ledger) as ledger:
        assert ledger.spending() == []


@pytest.mark.parametrize("values", [{}, {"terms": None}, {"terms": {"plan": 1}}])
def test_an_offer_without_terms_is_refused(make_node: MakeNode, values: dict[str, Any]) -> None:
    request = Request(run_id="run-1", step="ingest", values=values)
    claim = replace(request, step="claim", values=values | {"steps": ["train"]})
    for handler, asked in ((handlers.ingest, request), (handlers.claim, claim)):
        with pytest.raises(FederationError, match="terms of a run"):
            handler(make_node(), asked)


@pytest.mark.parametrize("steps", [None, [], "train", ["ingest"], ["train", "read_everything"], [["train"]]])
def test_a_claim_names_steps_that_can_be_charged(
    make_node: MakeNode, make_terms: MakeTerms, offer: Offer, steps: Any
) -> None:
    request = offer(make_terms())
    with pytest.raises(FederationError, match="claim for steps"):
        handlers.claim(make_node(), replace(request, values=request.values | {"steps": steps}))


def test_only_the_claimed_steps_are_reserved_and_answered(
    make_node: MakeNode, make_terms: MakeTerms, offer: Offer, trained: FakeKernel
) -> None:
    """The rest of a run whose first steps came from the cache."""
    node = make_node(lifetime_runs=1)
    handlers.claim(node, offer(make_terms(), steps=["analyze"]))
    with Ledger(node.ledger) as ledger:
        held = {spending.block.split: spending.held for spending in ledger.spending()}
    assert held["train"] == 0 < held["eval"]
    with pytest.raises(BudgetError, match="all planned releases"):
        handlers.release(node, train_request())
    with pytest.raises(BudgetError, match="all planned releases"):
        handlers.release(node, Request(run_id="run-1", step="statistics"))
    with pytest.raises(LedgerError, match="blocks and steps"):
        handlers.claim(node, offer(make_terms()))


@pytest.mark.parametrize("step", ["statistics", "preprocess", "train", "analyze"])
def test_a_step_before_its_claim_is_refused(make_node: MakeNode, step: str) -> None:
    with pytest.raises(LedgerError, match="the claim comes first"):
        handlers.release(make_node(), Request(run_id="run-1", step=step))


@pytest.mark.parametrize("step", ["ingest", "finish", "read_everything", ""])
def test_only_planned_steps_are_released(accepted: Node, step: str) -> None:
    with pytest.raises(FederationError, match="statistics, preprocess, train, analyze"):
        handlers.release(accepted, Request(run_id="run-1", step=step))


def test_the_plan_cannot_be_changed_after_the_claim(
    accepted: Node, make_terms: MakeTerms, offer: Offer
) -> None:
    weaker = make_terms().plan.model_dump(mode="json")
    weaker["queries"]["labels"]["mechanism"]["noise_stddev"] = 0.1
    with pytest.raises(LedgerError, match="terms"):
        handlers.claim(accepted, offer(make_terms(plan=weaker)))
    with Ledger(accepted.ledger) as ledger:
        assert RunTerms.model_validate_json(ledger.terms("run-1", "client-1")) == make_terms()


@pytest.mark.parametrize(
    ("query", "changes"),
    [
        ("columns", None),
        ("columns", {"step": "preprocess"}),
        ("columns", {"splits": ["train"]}),
        ("columns", {"step": "later"}),
        ("training", None),
        ("training", {"splits": ["eval"]}),
        (
            "training",
            {"mechanism": {"kind": "noisy_histograms", "noise_stddev": 1.0, "num_histograms": 1}},
        ),
    ],
    ids=str,
)
def test_a_plan_that_leaves_a_query_uncharged_is_refused(
    make_node: MakeNode,
    make_terms: MakeTerms,
    offer: Offer,
    trained: FakeKernel,
    query: str,
    changes: dict[str, Any] | None,
) -> None:
    """A coordinator that would get exact answers beside a charge for something else."""
    request = offer(make_terms())
    queries = request.values["terms"]["plan"]["queries"]
    if changes is None:
        del queries[query]
    else:
        queries[query] |= changes
    node = make_node()

    def run() -> None:
        handlers.claim(node, request)
        handlers.release(node, Request(run_id="run-1", step="statistics"))
        handlers.release(node, train_request())

    with pytest.raises((FederationError, LedgerError, PrivacyError, BudgetError)):
        run()


def test_a_query_without_a_mechanism_is_never_answered(accepted: Node, make_terms: MakeTerms) -> None:
    """Even if such a plan were ever accepted."""
    terms = make_terms()
    bare = terms.model_copy(update={"plan": terms.plan.model_copy(update={"queries": {}})})
    for step in ("statistics", "preprocess", "train"):
        with pytest.raises(PrivacyError, match="charges"):
            handlers.RELEASES[step](accepted, train_request(step=step), bare)


def test_records_cannot_be_moved_to_other_blocks_by_a_later_run(
    accepted: Node, make_terms: MakeTerms, offer: Offer
) -> None:
    with pytest.raises(LedgerError, match="first divided"):
        handlers.claim(accepted, offer(make_terms(eval_fraction=0.5), "run-2"))
    handlers.claim(accepted, offer(make_terms(), "run-3"))


def test_an_identical_train_request_gets_identical_bytes_for_one_charge(
    accepted: Node, trained: FakeKernel
) -> None:
    first = handlers.release(accepted, train_request())
    again = handlers.release(accepted, train_request())
    assert encode_reply(first) == encode_reply(again)
    assert num_releases(accepted) == 1
    assert len(trained.tasks) == 1


def test_with_secure_randomness_too_the_stored_reply_is_given_again(
    make_node: MakeNode, make_terms: MakeTerms, offer: Offer, trained: FakeKernel
) -> None:
    plan = make_terms().plan.model_dump(mode="json") | {"randomness": "secure"}
    node = make_node(seed=None)
    handlers.claim(node, offer(make_terms(plan=plan)))
    replies = {encode_reply(handlers.release(node, train_request())) for _ in range(3)}
    assert len(replies) == 1
    second = handlers.release(node, train_request(2))
    assert encode_reply(second) not in replies


@pytest.mark.parametrize(
    "change",
    [
        {"arrays": {"weights": np.ones(1, np.float32)}},
        {"values": {"transform": TRANSFORM, "local_step_sizes": {"client-1": 0.1}}},
    ],
    ids=["weights", "step-size"],
)
def test_other_content_under_the_same_identity_is_refused(
    accepted: Node, trained: FakeKernel, change: dict[str, Any]
) -> None:
    handlers.release(accepted, train_request())
    with pytest.raises(LedgerError, match="other content"):
        handlers.release(accepted, train_request(**change))
    assert num_releases(accepted) == 1


def test_no_more_rounds_are_answered_than_planned(accepted: Node, trained: FakeKernel) -> None:
    for server_round in (1, 2, 3):
        handlers.release(accepted, train_request(server_round))
    for further in (train_request(4), train_request(1, attempt=1), train_request(0)):
        with pytest.raises(BudgetError, match="all planned releases"):
            handlers.release(accepted, further)
    assert num_releases(accepted) == 3


@pytest.mark.parametrize("step", ["statistics", "preprocess"])
def test_a_counting_step_is_answered_once(accepted: Node, step: str) -> None:
    request = Request(run_id="run-1", step=step)
    first = handlers.release(accepted, request)
    assert encode_reply(handlers.release(accepted, request)) == encode_reply(first)
    for further in (replace(request, attempt=1), replace(request, server_round=1)):
        with pytest.raises(BudgetError, match="all planned releases"):
            handlers.release(accepted, further)


def test_nothing_is_returned_when_the_charge_fails(
    accepted: Node, trained: FakeKernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise LedgerError("Expected room on the disk, found none.")

    monkeypatch.setattr(Ledger, "commit", fail)
    with pytest.raises(LedgerError, match="disk"):
        handlers.release(accepted, train_request())
    monkeypatch.undo()
    assert num_releases(accepted) == 0


def test_the_charge_and_the_reply_are_durable_before_the_reply_is_returned(
    accepted: Node, trained: FakeKernel
) -> None:
    """Killed after the answer was computed: whoever asks again gets what was charged."""
    reply = handlers.release(accepted, train_request())
    restarted = replace(accepted)
    with Ledger(restarted.ledger) as ledger:
        identity = handlers.ReleaseId(run_id="run-1", client="client-1", step="train", server_round=1)
        assert ledger.stored_reply(identity, train_request().digest) == encode_reply(reply)


def test_finishing_frees_what_was_not_released_and_ends_the_run(
    make_node: MakeNode, make_terms: MakeTerms, offer: Offer, trained: FakeKernel
) -> None:
    node = make_node(lifetime_runs=1)
    handlers.claim(node, offer(make_terms(), "run-1"))
    for _ in range(2):
        handlers.finish(node, Request(run_id="run-1", step="finish"))
    handlers.claim(node, offer(make_terms(), "run-2"))
    with pytest.raises(LedgerError, match=r"closed|open claim"):
        handlers.release(node, train_request())
    with pytest.raises(LedgerError, match="closed"):
        handlers.claim(node, offer(make_terms(), "run-1"))


def test_what_was_released_stays_spent_after_finishing(
    make_node: MakeNode, make_terms: MakeTerms, offer: Offer
) -> None:
    node = make_node(lifetime_runs=1)
    handlers.claim(node, offer(make_terms(), "run-1"))
    handlers.release(node, Request(run_id="run-1", step="statistics"))
    handlers.finish(node, Request(run_id="run-1", step="finish"))
    with pytest.raises(BudgetError):
        handlers.claim(node, offer(make_terms(), "run-2"))


def test_a_seeded_plan_is_refused_at_once_without_the_owner_s_seed(
    make_node: MakeNode, make_terms: MakeTerms, offer: Offer
) -> None:
    node = make_node(seed=None)
    with pytest.raises(LedgerError, match="refused by policy"):
        handlers.claim(node, offer(make_terms()))
    assert not node.ledger.path.exists()


def test_a_run_without_privacy_is_refused_unless_allowed(
    make_node: MakeNode, make_terms: MakeTerms, offer: Offer
) -> None:
    with pytest.raises(LedgerError, match="refused by policy"):
        handlers.claim(make_node(), offer(make_terms(plan=NOT_PRIVATE)))


def test_a_run_without_privacy_is_exact_and_leaves_budgets_alone(
    make_node: MakeNode, make_terms: MakeTerms, offer: Offer, trained: FakeKernel
) -> None:
    node = make_node(allow_not_private=True, lifetime_runs=1)
    handlers.claim(node, offer(make_terms(plan=NOT_PRIVATE), "run-1"))
    counts = handlers.release(node, Request(run_id="run-1", step="statistics")).arrays["labels"]
    assert counts.sum() == 12
    handlers.release(node, train_request())
    assert (trained.tasks[0].noise == 0).all()
    assert trained.tasks[0].clipping_norm is None
    with Ledger(node.ledger) as ledger:
        assert ledger.spending() == []
    handlers.claim(node, offer(make_terms(), "run-2"))


def _released(node: Node, step: str, monkeypatch: pytest.MonkeyPatch) -> Reply:
    request = Request(run_id="run-1", step=step)
    if step == "analyze":
        fake = SimpleNamespace(predict=lambda definition, weights, features: np.full(len(features), 0.7))
        monkeypatch.setitem(sys.modules, "fedpipe.learning.architectures", fake)
        bins = ScoreBins.around(0.5, 8).model_dump(mode="json")
        request = replace(train_request(0), step=step, values={"transform": TRANSFORM, "bins": bins})
    return handlers.release(node, request)


@pytest.mark.parametrize("step", ["statistics", "preprocess", "analyze"])
@pytest.mark.parametrize("num_records", [0, 1, 12])
def test_every_count_that_leaves_is_an_integer_with_noise(
    make_node: MakeNode,
    make_terms: MakeTerms,
    offer: Offer,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
    num_records: int,
) -> None:
    """A client without any record answers as loudly as the others."""
    node = make_node(lines=[f"r{n},{20 + n},ulm,y" for n in range(num_records)])
    handlers.claim(node, offer(make_terms()))
    reply = _released(node, step, monkeypatch)
    values = np.concatenate([array.ravel() for array in reply.arrays.values()])
    assert {array.dtype for array in reply.arrays.values()} == {np.dtype(np.int64)}
    # Noise of standard deviation 3: eight or more cells are never all within a count of the truth.
    assert values.size >= 8
    assert np.abs(values).max() > 2
    assert (values < 0).any()
    assert reply.values == {}


@pytest.mark.parametrize("step", ["statistics", "preprocess", "analyze"])
def test_shapes_do_not_depend_on_the_records(
    make_node: MakeNode,
    make_terms: MakeTerms,
    offer: Offer,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
) -> None:
    shapes = []
    for number, lines in enumerate(([], ["r1,?,ulm,y"], None)):
        node = make_node(f"client-{number}", lines=lines)
        handlers.claim(node, offer(make_terms()))
        reply = _released(node, step, monkeypatch)
        shapes.append({name: array.shape for name, array in reply.arrays.items()})
    assert shapes[0] == shapes[1] == shapes[2]


def test_a_client_without_records_trains_pure_noise(
    make_node: MakeNode, make_terms: MakeTerms, offer: Offer, trained: FakeKernel
) -> None:
    node = make_node(lines=[])
    handlers.claim(node, offer(make_terms()))
    sums = handlers.release(node, train_request()).arrays["sum"]
    [task] = trained.tasks
    assert [len(batch) for batch in task.batches] == [0, 0]
    assert sums.tolist() == task.noise.sum(axis=0).tolist()
    assert sums[0] != 0
    assert sums.dtype == np.float32


def test_noise_has_the_planned_size_whatever_the_client_holds(
    make_node: MakeNode, make_terms: MakeTerms, offer: Offer, trained: FakeKernel
) -> None:
    weights = np.zeros(20_000, np.float32)
    for name, lines in (("empty", []), ("full", None)):
        node = make_node(name, lines=lines)
        handlers.claim(node, offer(make_terms()))
        handlers.release(node, train_request(arrays={"weights": weights}))
    for task in trained.tasks:
        assert task.noise.shape == (2, 20_000)
        assert task.clipping_norm == 1.0
        assert task.noise.std() == pytest.approx(2.0, rel=0.02)


def test_batches_and_noise_come_from_the_node_s_generator(
    accepted: Node, make_terms: MakeTerms, trained: FakeKernel
) -> None:
    handlers.release(accepted, train_request())
    [task] = trained.tasks
    mechanism = make_terms().plan.queries["training"].mechanism
    generator = accepted.randomness(make_terms().plan, train_request())
    assert isinstance(generator, SeededRandomness)
    batches = mechanism.sample(len(task.labels), generator)  # type: ignore[union-attr]
    assert [batch.tolist() for batch in task.batches] == [batch.tolist() for batch in batches]
    noise = mechanism.noise(1, generator)  # type: ignore[union-attr]
    assert task.noise.tolist() == noise.tolist()


def test_only_labelled_training_records_train(
    make_node: MakeNode, make_terms: MakeTerms, offer: Offer, trained: FakeKernel
) -> None:
    node = make_node(lines=[f"r{n},{n},ulm,{'y' if n % 2 else 'unknown'}" for n in range(40)])
    terms = make_terms()
    handlers.claim(node, offer(terms))
    handlers.release(node, train_request())
    shard = node.shard(terms)
    expected = int(((shard.labels >= 0) & ~shard.is_eval).sum())
    assert 0 < expected < 20
    assert trained.tasks[0].features.shape == (expected, 1)


def test_local_steps_move_by_the_size_given_for_this_client(accepted: Node, trained: FakeKernel) -> None:
    sizes = {"client-1": 0.25, "client-2": 9.0}
    handlers.release(accepted, train_request(values={"transform": TRANSFORM, "local_step_sizes": sizes}))
    assert trained.tasks[0].local_step_size == 0.25


def test_unequal_clients_answer_from_their_own_records(
    make_node: MakeNode, make_terms: MakeTerms, offer: Offer
) -> None:
    nodes = [make_node("small", lines=["r1,1,ulm,y"]), make_node("large")]
    totals = []
    for node in nodes:
        plan = make_terms().plan.model_dump(mode="json")
        plan["queries"]["labels"]["mechanism"]["noise_stddev"] = 0.1
        handlers.claim(node, offer(make_terms(plan=plan)))
        totals.append(
            int(handlers.release(node, Request(run_id="run-1", step="statistics")).arrays["labels"].sum())
        )
    assert totals == [1, 12]
    with Ledger(nodes[0].ledger) as ledger:
        assert {str(spending.block) for spending in ledger.spending()} == {
            f"{name}/undated/{split}" for name in ("small", "large") for split in ("train", "eval")
        }


def test_owners_who_share_a_ledger_have_budgets_of_their_own(
    make_node: MakeNode, make_terms: MakeTerms, offer: Offer
) -> None:
    """Two simulated populations both have a client-1, of other records."""
    first = replace(make_node(lifetime_runs=1), account="hearts.client-1")
    second = replace(first, account="lungs.client-1")
    for node in (first, second):
        assert handlers.claim(node, offer(make_terms())).client == "client-1"
        handlers.release(node, Request(run_id="run-1", step="statistics"))
    with Ledger(first.ledger) as ledger:
        assert {spending.block.client for spending in ledger.spending()} == {
            "hearts.client-1",
            "lungs.client-1",
        }
    with pytest.raises(BudgetError, match="hearts"):
        handlers.claim(first, offer(make_terms(), "run-2"))


def test_the_ledger_of_a_node_is_its_own_file(accepted: Node, tmp_path: Path) -> None:
    assert (tmp_path / "ledger.sqlite").stat().st_mode & 0o777 == 0o600


def test_a_request_repeated_while_it_is_worked_on_gets_the_one_charged_answer(
    accepted: Node, trained: FakeKernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two answers that were computed, one leaves: two would be two draws of noise for one charge."""
    first: list[Reply] = []
    honest = trained.noisy_sums

    def slow(task: kernel.LocalTask) -> np.ndarray[Any, Any]:
        if not first:
            monkeypatch.setattr(trained, "noisy_sums", honest)
            first.append(handlers.release(accepted, train_request()))
        return honest(task) + 1.0

    monkeypatch.setattr(trained, "noisy_sums", slow)
    second = handlers.release(accepted, train_request())
    assert encode_reply(second) == encode_reply(first[0])
    assert num_releases(accepted) == 1


def test_a_pull_is_handed_to_the_kernel(accepted: Node, trained: FakeKernel) -> None:
    values = {
        "transform": TRANSFORM,
        "local_step_sizes": {"client-1": 0.5},
        "proximal_mus": {"client-1": 0.25},
    }
    handlers.release(accepted, train_request(values=values))
    handlers.release(accepted, train_request(server_round=2))
    assert [task.proximal_mu for task in trained.tasks] == [0.25, 0.0]


@pytest.mark.parametrize("step", ["train", "analyze"])
def test_inputs_that_would_fill_the_memory_are_refused_before_anything_is_built_or_charged(
    make_node: MakeNode,
    make_terms: MakeTerms,
    offer: Offer,
    trained: FakeKernel,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
) -> None:
    node = make_node(max_memory_mib=64)
    handlers.claim(node, offer(make_terms()))
    monkeypatch.setattr(handlers, "encode", lambda *_: pytest.fail("records were encoded"))
    vast = {"type": "vector", "column": "age", "size": 10**9}
    values = {"transform": {**TRANSFORM, "features": [vast]}, "local_step_sizes": {}}

    with pytest.raises(LedgerError, match="64 MiB at most, found one of about"):
        handlers.release(node, train_request(values=values, step=step))

    assert trained.tasks == []
    assert num_releases(node) == 0


@pytest.mark.parametrize("step", ["statistics", "preprocess", "train", "analyze"])
def test_a_node_whose_records_do_not_fit_in_memory_answers_alike(
    accepted: Node, make_terms: MakeTerms, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def answer() -> tuple[bool, Reply]:
        forget_records()
        is_in_memory = accepted.shard(terms).table.is_in_memory
        return is_in_memory, handlers.RELEASES[step](accepted, request, terms)

    terms = make_terms()
    bins = ScoreBins.around(0.5, 8).model_dump(mode="json")
    values = {"transform": TRANSFORM, "local_step_sizes": {}, "bins": bins}
    request = Request(run_id="run-1", step=step, values=values, arrays={"weights": np.zeros(2, np.float32)})
    commitments = accepted.commitments(terms)
    fits, expected = answer()
    monkeypatch.setattr(Node, "scratch", Scratch(memory_bytes=0))
    stored, found = answer()
    assert (fits, stored) == (True, False)
    assert encode_reply(found) == encode_reply(expected)
    assert accepted.commitments(terms) == commitments
