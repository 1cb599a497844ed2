"""One round of local DP-SGD: which units take part in which step, with what weight, under what noise."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from clients.node import Node
from clients.records import Encoded
from fedpipe.data.balance import Balance
from fedpipe.data.users import rows_by_user
from fedpipe.errors import FederationError
from fedpipe.federation import Request
from fedpipe.federation.terms import RunTerms
from fedpipe.privacy import DpSgd, Randomness
from fedpipe.privacy.mechanisms import poisson_batches

if TYPE_CHECKING:
    from fedpipe.learning.local_task import LocalTask

Weights = NDArray[np.float32]
Batches = list[NDArray[np.int32]]


def local_task(
    node: Node, request: Request, terms: RunTerms, records: Encoded, mechanism: DpSgd | None
) -> LocalTask:
    """Returns the steps of a round, all their randomness drawn; without a mechanism they are not private.

    Raises:
      FederationError: the weights that the request asks for do not fit the terms.
    """
    from fedpipe.learning.local_task import LocalTask

    weights = np.asarray(request.arrays["weights"], dtype=np.float32)
    randomness = node.randomness(terms.plan, request)
    example_weights, acceptance = _record_weights(request, terms, records)
    steps = mechanism.local_steps if mechanism else terms.training.local_steps
    batches = _batches(terms, records, mechanism, randomness, acceptance)
    if mechanism is None:
        noise = np.zeros((steps, weights.size), dtype=np.float32)
    else:
        noise = mechanism.noise(weights.size, randomness)
    return LocalTask(
        weights=weights,
        features=records.features,
        labels=records.labels,
        batches=batches,
        noise=noise,
        clipping_norm=mechanism.clipping_norm if mechanism else None,
        local_step_size=float(request.values["local_step_sizes"].get(node.name, 0.0)),
        proximal_mu=float(request.values.get("proximal_mus", {}).get(node.name, 0.0)),
        example_weights=example_weights,
        max_records=terms.plan.max_records,
        optimizer=terms.training.local_optimizer,
    )


def _batches(
    terms: RunTerms,
    records: Encoded,
    mechanism: DpSgd | None,
    randomness: Randomness,
    acceptance: Weights | None,
) -> Batches:
    """Returns the rows of each step: those of the records, or of all records of the users, that are drawn."""
    if terms.plan.user is None or records.users is None:
        return _drawn(terms, mechanism, len(records.labels), randomness, acceptance)
    rows = rows_by_user(records.users, terms.plan.max_records)
    drawn = _drawn(terms, mechanism, len(rows), randomness, None)
    return [_accepted(rows[users].ravel(), randomness, acceptance) for users in drawn]


def _drawn(
    terms: RunTerms,
    mechanism: DpSgd | None,
    num_units: int,
    randomness: Randomness,
    acceptance: Weights | None,
) -> Batches:
    if mechanism is not None:
        return mechanism.sample(num_units, randomness, acceptance)
    training = terms.training
    return poisson_batches(
        training.sampling_probability, training.local_steps, num_units, randomness, acceptance
    )


def _accepted(
    rows: NDArray[np.int32], randomness: Randomness, acceptance: Weights | None
) -> NDArray[np.int32]:
    """Returns `rows` of drawn users, in which a record stays with its own `acceptance`, by a coin of its own.

    What is left of a user is still clipped as one: the cost of drawing her covers it, as for records.
    """
    if acceptance is None:
        return rows
    present = np.flatnonzero(rows >= 0)
    [kept] = poisson_batches(1.0, 1, len(present), randomness, acceptance[rows[present]])
    dropped = np.delete(present, kept)
    rows[dropped] = -1 - rows[dropped]
    return rows


def _record_weights(
    request: Request, terms: RunTerms, records: Encoded
) -> tuple[Weights | None, Weights | None]:
    """Returns what multiplies each record's gradient before clipping, and its chance to be drawn.

    Both come from public values and the record's own span and class; None stands for ones.

    Raises:
      FederationError: the weights do not fit the spans and classes that were agreed to.
    """
    if "balance" not in request.values:
        return None, None
    try:
        balance = Balance.model_validate(request.values["balance"])
    except ValidationError as error:
        raise FederationError(
            "Expected weights in [0, 1] by span and class, found something else."
        ) from error
    if (balance.spans, balance.num_classes) != (terms.spans, terms.data_schema.num_classes):
        raise FederationError("Expected weights for the run's spans and classes, found others.")
    weights = balance.of_records(records.spans, records.labels)
    return (
        weights if balance.answer == "reweight" else None,
        weights if balance.answer == "resample" else None,
    )
