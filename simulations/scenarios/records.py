"""Synthetic cases at each owner, week by week: the same ones for the same seed, whenever they are asked for.

A case is drawn class first: the label from the week's share of positives, then the features given the
label. So a shift of labels is one of p(y) alone, with p(x | y) as it was, and drift moves p(x | y) of
both classes alike. In units of a standard deviation, positives have larger amounts (by 0.9), waited
longer (0.7) and made more contacts (0.5); they name loans and the web more often.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fedpipe.data.spans import nominal_window
from simulations.scenarios.settings import Event, Scenario

# (name, mean, standard deviation, how much larger for positives, largest), in the column's unit.
NUMBERS = (
    ("amount", 350.0, 120.0, 0.9, 1000.0),
    ("waiting_days", 20.0, 8.0, 0.7, 60.0),
    ("contacts", 3.0, 1.5, 0.5, 12.0),
)
CATEGORIES = {
    "product": (("account", "card", "loan", "mortgage", "transfer"), ((3, 3, 1, 2, 2), (2, 2, 3, 2, 1))),
    "channel": (("letter", "phone", "web"), ((2, 3, 3), (1, 2, 5))),
}
LATE_RECORDS = 10
_LATE, _AMENDED = 1, 2  # so that what is late or amended is drawn from generators of its own


def records_until(scenario: Scenario, client: int, week: int) -> pd.DataFrame:
    """Returns all cases that `client` holds at the end of `week`, as text; owners keep two windows of weeks.

    The order is that of arrival. After a re-export, what it brought is in the cases of earlier weeks.
    """
    first = max(1, week - 2 * scenario.window + 1)
    frames = [_batch(scenario, client, each, week) for each in range(first, week + 1)]
    return pd.concat(frames, ignore_index=True)


def _batch(scenario: Scenario, client: int, week: int, today: int) -> pd.DataFrame:
    """Returns the cases of `week` as they are known in week `today`."""
    joined = client in scenario.members(week)
    silent = any(event.concerns(client) for event in scenario.during(week, "silent"))
    generator = np.random.default_rng([scenario.seed, client, week])
    count = generator.poisson(scenario.records_per_week) if joined and not silent else 0
    frame = _draw(scenario, client, week, f"{client}-{week}", count, generator)
    exports = [
        event
        for event in scenario.events
        if event.kind == "reexport" and event.concerns(client) and week < event.week <= today
    ]
    if not exports:
        return _with_gaps(scenario, client, week, frame)
    for event in exports if joined else ():
        frame = _amended(scenario, client, week, event, frame)
    return frame


def _draw(
    scenario: Scenario, client: int, week: int, name: str, count: int, generator: np.random.Generator
) -> pd.DataFrame:
    positive = generator.random(count) < _positive_share(scenario, client, week)
    drift = scenario.drift_per_week * week
    monday = nominal_window(scenario.span(week))[0]
    columns: dict[str, Sequence[str] | NDArray[np.str_]] = {
        "case_id": [f"{name}-{number}" for number in range(count)],
        "received": [
            str(day) for day in np.datetime64(monday) + generator.integers(0, 7, count).astype("m8[D]")
        ],
    }
    for column, mean, deviation, effect, largest in NUMBERS:
        values = mean + deviation * (effect * positive + drift + generator.normal(size=count))
        columns[column] = [f"{value:.1f}" for value in np.clip(values, 0, largest)]
    for column, (words, weights) in CATEGORIES.items():
        columns[column] = _choose(words, np.array(weights, dtype=np.float64), positive, generator)
    columns["disputed"] = np.where(positive, "yes", "no")
    return pd.DataFrame(columns, dtype=str)


def _positive_share(scenario: Scenario, client: int, week: int) -> float:
    found = scenario.positive_share
    for event in scenario.during(week, "positive_share"):
        if event.concerns(client) and event.share is not None:
            found = event.share
    return found


def _choose(
    words: Sequence[str],
    weights: NDArray[np.float64],
    positive: NDArray[np.bool_],
    generator: np.random.Generator,
) -> list[str]:
    ends = np.cumsum(weights / weights.sum(axis=1, keepdims=True), axis=1)[positive.astype(int)]
    return [words[place] for place in (generator.random((len(positive), 1)) > ends[:, :-1]).sum(axis=1)]


def _with_gaps(scenario: Scenario, client: int, week: int, frame: pd.DataFrame) -> pd.DataFrame:
    for event in scenario.during(week, "missing_column"):
        if event.concerns(client) and event.share is not None and event.column is not None:
            generator = np.random.default_rng([scenario.seed, client, week, event.week])
            frame.loc[generator.random(len(frame)) < event.share, event.column] = ""
    return frame


def _amended(scenario: Scenario, client: int, week: int, event: Event, frame: pd.DataFrame) -> pd.DataFrame:
    """Returns a week's cases as the re-export has them: some amended, and some that come late.

    An amended case keeps its key and its date, so its block too.
    """
    generator = np.random.default_rng([scenario.seed, client, week, event.week, _AMENDED])
    amended = generator.random(len(frame)) < (event.share or 0.0)
    amounts = [f"{value:.1f}" for value in generator.uniform(0, 1000, len(frame))]
    frame["amount"] = frame["amount"].where(~amended, amounts)
    # Late are cases of the two weeks before.
    count = LATE_RECORDS if week >= event.week - 2 else 0
    late = np.random.default_rng([scenario.seed, client, week, event.week, _LATE])
    return pd.concat(
        [frame, _draw(scenario, client, week, f"{client}-{week}-late", count, late)], ignore_index=True
    )


def exported(scenario: Scenario, client: int, week: int) -> pd.DataFrame:
    """Returns `client`'s export in `week`: from its first re-export on, shuffled and in another spelling."""
    frame = records_until(scenario, client, week)
    exports = [each for each in scenario.events if each.kind == "reexport" and each.concerns(client)]
    if all(each.week > week for each in exports):
        return frame
    order = np.random.default_rng([scenario.seed, client, week, len(frame)]).permutation(len(frame))
    frame = frame.iloc[order].rename(columns={"case_id": "Case ID", "received": "Received"})
    return frame.assign(Received=[f"{day[5:7]}/{day[8:]}/{day[:4]}" for day in frame["Received"]])
