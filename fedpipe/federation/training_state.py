"""What a training run is between two rounds, and its checkpoint on disk."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedpipe.errors import WorkspaceError
from fedpipe.federation.strategies import Moments, Strategy
from fedpipe.files import canonical_json, write_atomically
from fedpipe.learning.vectors import Vector

CHECKPOINT = "checkpoint.npz"
VERSION = 3  # 2 knew no updates that were set aside
MOMENT = "moment."


@dataclass(frozen=True, kw_only=True)
class RoundRecord:
    """What a round really had. Names and reasons are for the operator's eyes.

    Attributes:
      server_round: from 1.
      answered: clients whose updates are in the aggregate.
      missing: clients that take part in the run and are not in this round's aggregate, with the reason.
      retried: clients that were asked more than once, whatever came of it.
      set_aside: clients whose updates were left out or shortened, with the reason.
      update_norm: L2 norm of the mean gradient that the noisy sums gave: a function of releases.
    """

    server_round: int
    answered: tuple[str, ...]
    missing: Mapping[str, str] = field(default_factory=dict)
    retried: tuple[str, ...] = ()
    set_aside: Mapping[str, str] = field(default_factory=dict)
    update_norm: float = 0.0


@dataclass(frozen=True, kw_only=True)
class TrainingState:
    """All that the next round depends on.

    Attributes:
      weights: float32 (num_parameters,), after `server_round` rounds.
      moments: what the strategy remembers, each float64 (num_parameters,).
      iterate_sum: float64 (num_parameters,), sum of the last `num_averaged` iterates.
    """

    weights: Vector
    moments: Moments
    iterate_sum: NDArray[np.float64]
    num_averaged: int = 0
    server_round: int = 0
    history: tuple[RoundRecord, ...] = ()

    @classmethod
    def start(cls, weights: Vector, strategy: Strategy) -> TrainingState:
        """Returns the state before the first round."""
        return cls(weights=weights, moments=strategy.start(weights.size), iterate_sum=np.zeros(weights.size))

    @property
    def result(self) -> Vector:
        """The trained weights: the mean of the averaged iterates, or the last one."""
        if not self.num_averaged:
            return self.weights
        return (self.iterate_sum / self.num_averaged).astype(np.float32)


def save_state(path: Path, state: TrainingState, identity: str) -> None:
    """Writes `state` to `path`; a crash leaves the old file or the new one."""
    head = canonical_json(
        {
            "version": VERSION,
            "identity": identity,
            "server_round": state.server_round,
            "num_averaged": state.num_averaged,
            "history": [asdict(record) for record in state.history],
        }
    )
    content: dict[str, NDArray[Any]] = {
        "head": np.array(head),
        "weights": state.weights,
        "iterate_sum": state.iterate_sum,
    }
    content |= {MOMENT + name: moment for name, moment in state.moments.items()}
    write_atomically(path, lambda stream: np.savez(stream, **content))


def load_state(path: Path, identity: str, start: TrainingState) -> TrainingState | None:
    """Returns the state in `path`, or None if there is none of this run.

    Args:
      path: of the checkpoint.
      identity: digest of the run's terms.
      start: the run's first state, whose arrays say what must be there.

    Raises:
      WorkspaceError: the file is damaged or of another fedpipe. To start over instead would not
        help: the clients have counted the rounds that it holds, and answer none of them again.
    """
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        head = json.loads(str(arrays.pop("head")))
        version = head.get("version", 1)
        # Another version may call anything by another name.
        state = _state(head, arrays) if version == VERSION else None
        if state is not None and head["identity"] == identity and not _fits(state, start):
            raise ValueError("Expected the arrays of this model and strategy, found others.")
    except Exception as error:  # zip, json and numpy raise many kinds for a damaged file
        raise WorkspaceError(
            f"Expected a readable checkpoint at {path}, found it damaged: restore it, or start a new run "
            "with --fresh."
        ) from error
    if state is None:
        raise WorkspaceError(
            f"Expected a checkpoint of version {VERSION} at {path}, found version {version}: go on with the "
            "fedpipe that wrote it, or start a new run with --fresh."
        )
    return state if head["identity"] == identity else None


def _state(head: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> TrainingState:
    return TrainingState(
        weights=arrays["weights"],
        moments={name[len(MOMENT) :]: array for name, array in arrays.items() if name.startswith(MOMENT)},
        iterate_sum=arrays["iterate_sum"],
        num_averaged=head["num_averaged"],
        server_round=head["server_round"],
        history=tuple(
            RoundRecord(
                server_round=record["server_round"],
                answered=tuple(record["answered"]),
                missing=record["missing"],
                retried=tuple(record["retried"]),
                set_aside=record["set_aside"],
                update_norm=record["update_norm"],
            )
            for record in head["history"]
        ),
    )


def _fits(state: TrainingState, start: TrainingState) -> bool:
    found, expected = _signature(state), _signature(start)
    return found == expected and len(state.history) == state.server_round


def _signature(state: TrainingState) -> list[tuple[str, tuple[int, ...], str]]:
    arrays: dict[str, NDArray[Any]] = {
        "weights": state.weights,
        "iterate_sum": state.iterate_sum,
        **state.moments,
    }
    return sorted((name, array.shape, array.dtype.name) for name, array in arrays.items())
