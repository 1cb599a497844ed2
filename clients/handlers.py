"""What a node answers, step by step. Each answer is a charged release or a public value."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from clients.node import Node
from clients.records import encode
from clients.training import local_task
from fedpipe.data import Transform
from fedpipe.data.profile import feature_counts
from fedpipe.data.statistics import column_health, label_counts, user_counts
from fedpipe.data.transform import category_positions
from fedpipe.errors import FederationError, LedgerError, PrivacyError
from fedpipe.federation import Reply, Request
from fedpipe.federation.messages import decode_reply, encode_reply
from fedpipe.federation.terms import RunTerms
from fedpipe.learning import ModelDefinition
from fedpipe.learning.score_histograms import ScoreBins, score_histograms, slice_histogram
from fedpipe.ledger import Ledger, ReleaseId
from fedpipe.privacy import DpSgd, NoisyHistograms, Randomness
from fedpipe.provenance import code_digest

Histograms = Mapping[str, NDArray[np.int64]]


def ingest(node: Node, request: Request) -> Reply:
    """Commits to the records that a run would use, and costs nothing.

    The answer holds nothing observed: a keyed commitment for every declared span, the schema version, and
    the digest of the code that would answer.
    """
    terms = _offered(request)
    node.accept(terms)
    spans = [{"name": span, "commitment": digest} for span, digest in node.commitments(terms).items()]
    values = {"schema_version": terms.data_schema.version, "code": code_digest(__name__), "spans": spans}
    return Reply(client=node.name, values=values)


def claim(node: Node, request: Request) -> Reply:
    """Accepts or refuses a run: reserves all that the steps it names may cost, before any is asked.

    The answer says, signed with the node's own key, which plan was charged, for which records and code.
    """
    steps = request.values.get("steps")
    named = isinstance(steps, list) and all(isinstance(step, str) and step in RELEASES for step in steps)
    if not steps or not named:
        raise FederationError(f"Expected a claim for steps among {', '.join(RELEASES)}, found others.")
    terms = _offered(request)
    node.accept(terms)
    # Signed first: records or a key that cannot be read reserve nothing. It leaves once the claim stands.
    attestation = node.vouch(request.run_id, terms, steps, code=code_digest(__name__))
    node.claim(request.run_id, terms, steps)
    return Reply(client=node.name, values={"attestation": attestation.model_dump(mode="json")})


def _offered(request: Request) -> RunTerms:
    try:
        return RunTerms.model_validate(request.values["terms"])
    except (KeyError, ValidationError) as error:
        raise FederationError(
            "Expected the terms of a run, found something else: do both sides run the same fedpipe?"
        ) from error


def finish(node: Node, request: Request) -> Reply:
    """Closes the run's claim, if there is one: what was never released is free again."""
    with node.open_ledger() as ledger:
        known = ledger.close(request.run_id, node.account)
    return Reply(client=node.name, values={"closed": known})


def statistics(node: Node, request: Request, terms: RunTerms) -> Reply:
    """Counts labels by span and split, records by the health of every column, and users as the unit."""
    shard = node.shard(terms)
    randomness = node.randomness(terms.plan, request)
    labels = {"labels": label_counts(shard, terms.data_schema, terms.spans)}
    columns = {"columns": np.stack(column_health(shard, terms.data_schema))}
    arrays = {
        **_noisy(terms, "labels", labels, randomness),
        **_noisy(terms, "columns", columns, randomness, rows=True),
    }
    if terms.plan.user:
        arrays |= _noisy(terms, "users", {"users": user_counts(shard)}, randomness)
    return Reply(client=node.name, arrays=arrays)


def preprocess(node: Node, request: Request, terms: RunTerms) -> Reply:
    """Counts the values of every profiled column, over training records."""
    table = node.shard(terms).train.table
    counts = feature_counts(table, terms.data_schema, terms.preprocess)
    named = {f"column_{index}": count for index, count in enumerate(counts)}
    randomness = node.randomness(terms.plan, request)
    return Reply(client=node.name, arrays=_noisy(terms, "features", named, randomness))


def train(node: Node, request: Request, terms: RunTerms) -> Reply:
    """Makes one round's DP-SGD steps and answers with their accumulated noisy sums."""
    from fedpipe.learning.kernel import make_kernel

    transform = Transform.model_validate(request.values["transform"])
    definition = _definition(node, request, terms, transform)
    records = encode(node.shard(terms).labelled_train, transform, node.scratch)
    task = local_task(node, request, terms, records, mechanism(terms, "training", DpSgd))
    kernel = make_kernel(terms.training.kernel, definition)
    return Reply(client=node.name, arrays={"sum": kernel.noisy_sums(task)})


def analyze(node: Node, request: Request, terms: RunTerms) -> Reply:
    """Scores the evaluation records and answers with noisy histograms of the scores."""
    from fedpipe.learning.architectures import predict

    transform = Transform.model_validate(request.values["transform"])
    definition = _definition(node, request, terms, transform)
    records = encode(node.shard(terms).labelled_eval, transform, node.scratch)
    weights = np.asarray(request.arrays["weights"], dtype=np.float32)
    scores = predict(definition, weights, records.features)
    bins = ScoreBins.model_validate(request.values["bins"])
    histograms = score_histograms(scores, records.labels, bins)
    slices = _slice_histograms(node, request, terms, transform, scores)
    randomness = node.randomness(terms.plan, request)
    arrays = _noisy(terms, "evaluation", histograms, randomness)
    if slices:
        arrays |= _noisy(terms, "slices", slices, randomness)
    return Reply(client=node.name, arrays=arrays)


def _slice_histograms(
    node: Node, request: Request, terms: RunTerms, transform: Transform, scores: NDArray[np.float64]
) -> dict[str, NDArray[np.int64]]:
    """Counts the scored records by the categories of every column that is asked for."""
    columns = request.values.get("slices", ())
    if not columns:
        return {}
    shard, bins = node.shard(terms).labelled_eval, ScoreBins.model_validate(request.values["slice_bins"])
    counted = {}
    for index, column in enumerate(columns):
        feature = transform.category(column)
        positions = np.concatenate(
            [
                category_positions(feature, frame[column], transform.missing_tokens)
                for frame in shard.table.parts([column])
            ]
        )
        counted[f"slice_{index}"] = slice_histogram(scores, shard.labels, positions, feature.width, bins)
    return counted


Release = Callable[[Node, Request, RunTerms], Reply]
RELEASES: dict[str, Release] = {
    "statistics": statistics,
    "preprocess": preprocess,
    "train": train,
    "analyze": analyze,
}


def release(node: Node, request: Request) -> Reply:
    """Answers a request of an accepted run: the stored reply if it was answered before, else a new charge.

    The charge and the reply are durable before the reply is returned.

    Raises:
      FederationError: for an unknown step.
      LedgerError, BudgetError: when the ledger refuses.
    """
    if request.step not in RELEASES:
        raise FederationError(f"Expected one of {', '.join(RELEASES)}, found step {request.step!r}.")
    identity = ReleaseId(
        run_id=request.run_id,
        client=node.account,
        step=request.step,
        server_round=request.server_round,
        attempt=request.attempt,
    )
    with node.open_ledger() as ledger:
        stored = ledger.stored_reply(identity, request.digest)
        if stored is not None:
            return decode_reply(stored)
        return _release_new(ledger, identity, node, request)


def _release_new(ledger: Ledger, identity: ReleaseId, node: Node, request: Request) -> Reply:
    terms = _parse_terms(ledger.terms(request.run_id, node.account))
    reply = RELEASES[request.step](node, request, terms)
    try:
        ledger.commit(
            identity, request_digest=request.digest, reply=encode_reply(reply), charged=terms.plan.private
        )
    except LedgerError:
        # The same request, repeated while this one was worked on, may have been answered meanwhile: then
        # that answer is the charged one, and the only one to leave.
        stored = ledger.stored_reply(identity, request.digest)
        if stored is None:
            raise
        return decode_reply(stored)
    return reply


@lru_cache(maxsize=64)
def _parse_terms(text: str) -> RunTerms:
    # Every request of a run is answered under the same terms.
    return RunTerms.model_validate_json(text)


def _definition(node: Node, request: Request, terms: RunTerms, transform: Transform) -> ModelDefinition:
    """Returns the model to train or score with, once its owner's policy has allowed what it takes."""
    definition = ModelDefinition.make(terms.model, transform, terms.data_schema.num_classes)
    node.policy.check_memory(terms, definition, request.arrays["weights"].size)
    return definition


MechanismType = TypeVar("MechanismType", DpSgd, NoisyHistograms)


def mechanism(terms: RunTerms, query: str, kind: type[MechanismType]) -> MechanismType | None:
    """Returns what protects a query: None only in a run that the owner lets happen without privacy.

    Raises:
      PrivacyError: a private plan has no such mechanism for the query.
    """
    if not terms.plan.private:
        return None
    found = terms.plan.queries.get(query)
    if found is None or not isinstance(found.mechanism, kind):
        raise PrivacyError(f"Expected a plan that charges {query} by {kind.__name__}, found none.")
    return found.mechanism


def _noisy(
    terms: RunTerms, query: str, histograms: Histograms, randomness: Randomness, *, rows: bool = False
) -> dict[str, NDArray[np.int64]]:
    """Returns `histograms` released as the plan says, or as they are in a run without privacy.

    With `rows`, each row of an array is a histogram of its own.
    """
    counting = mechanism(terms, query, NoisyHistograms)
    if counting is None:
        return dict(histograms)
    count = sum(len(histogram) if rows else 1 for histogram in histograms.values())
    return counting.release(histograms, randomness, num_histograms=count)
