"""How much a record counts in training, by its span and class: the answer to a shift of labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from fedpipe.encoding.text import find_positions

Weight = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Answer = Literal["none", "reweight", "resample"]


class Balance(BaseModel):
    """Public weights, made from released counts alone. With the answer `none` all of them are 1.

    A record's weight is a function of public numbers and of its own span and class. It is part of that
    record's own contribution, which is clipped (reweight) or drawn (resample) as planned.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    answer: Answer
    spans: tuple[str, ...] = Field(min_length=1)
    weights: tuple[tuple[Weight, ...], ...] = Field(description="By span, then by class; at most 1.")

    @model_validator(mode="after")
    def _check(self) -> Balance:
        if len(self.weights) != len(self.spans) or len({len(row) for row in self.weights}) != 1:
            raise ValueError("Expected a row of weights for each span, all of one length.")
        if self.answer == "none" and any(weight != 1 for row in self.weights for weight in row):
            raise ValueError("Expected weights of 1 for the answer 'none', found others.")
        return self

    @classmethod
    def even(cls, spans: Sequence[str], num_classes: int) -> Balance:
        """Returns the balance that changes nothing."""
        return cls(answer="none", spans=tuple(spans), weights=((1.0,) * num_classes,) * len(spans))

    @property
    def num_classes(self) -> int:
        """The number of classes that have weights."""
        return len(self.weights[0])

    def of_records(self, spans: NDArray[np.str_], labels: NDArray[np.int32]) -> NDArray[np.float32]:
        """Returns float32 (n,): the weight of each record.

        Args:
          spans: (n,), each one of this balance's spans.
          labels: (n,), class numbers of 0 or more.
        """
        places = find_positions(spans.tolist(), self.spans)
        return np.asarray(self.weights, dtype=np.float32)[places, labels]
