"""A synthetic population of consumer complaints, in the columns of the CFPB's exports.

Every complaint is drawn in this order; all effects are on the log-odds of a dispute:

1. A *company* by size (proportional to 1 / rank^0.8), with an effect of its own, N(0, 0.4^2), and
   a product mix of its own (Dirichlet).
2. A *date*, even over two years. With time the product mix shifts from mortgages to debt
   collection, and the odds of a dispute fall by 0.3 in all: drift that a retrained model follows.
3. *Product, sub-product, issue*: each issue has an effect, N(0, 0.6^2).
4. The *company's response*, by product and company; relief in money lowers the odds by 1.1, relief
   of another kind by 0.4; plain closing raises them by 0.4. An untimely response adds 0.4.
5. *Channel, state, tags*: the web adds 0.2; states have effects N(0, 0.1^2).
6. A latent *frustration*, N(0, 1), adds 0.85 per unit. It is seen only through the narrative, where
   each of several phrases is drawn from a heated list rather than a calm one with probability
   1 / (1 + exp(-1.5 * frustration)). Both lists occur with both labels; no phrase decides.

About one in five is disputed. A pooled logistic regression reaches an AUC between 0.65 and 0.75.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from simulations.phrases import CALM, CLOSINGS, COMPANIES, DETAILS, HEATED, OPENINGS, PRODUCTS, STATES

NUM_COMPLAINTS = 30_000
FIRST_DAY = dt.date(2014, 1, 1)
NUM_DAYS = 730
NARRATIVE_PROBABILITY = 0.6
INTERCEPT = -1.6

RESPONSES = (
    "Closed with explanation",
    "Closed with non-monetary relief",
    "Closed with monetary relief",
    "Closed",
)
RESPONSE_EFFECTS = np.array([0.0, -0.4, -1.1, 0.4])
CHANNELS = ("Web", "Referral", "Phone", "Postal mail", "Fax")
CHANNEL_WEIGHTS = np.array([0.62, 0.2, 0.09, 0.07, 0.02])
CHANNEL_EFFECTS = np.array([0.2, -0.1, -0.1, 0.0, 0.0])

TAGS = ("", "Older American", "Servicemember")
TAG_WEIGHTS = np.array([0.86, 0.08, 0.06])

Effects = NDArray[np.float64]
Places = NDArray[np.int64]


def synthetic_complaints(num_complaints: int = NUM_COMPLAINTS, *, seed: int = 2014) -> pd.DataFrame:
    """Returns complaints as text, in order of date; the same ones for the same `seed`."""
    generator = np.random.default_rng(seed)
    company = _choose(generator, 1 / np.arange(1, len(COMPANIES) + 1) ** 0.8, num_complaints)
    day = np.sort(generator.integers(0, NUM_DAYS, num_complaints))
    product, issue, issue_effect = _subjects(generator, company, day)
    response, timely = _responses(generator, company, product)
    channel = _choose(generator, CHANNEL_WEIGHTS, num_complaints)
    state = _choose(generator, np.array(list(STATES.values())), num_complaints)
    frustration = generator.normal(size=num_complaints)
    log_odds = (
        INTERCEPT
        + generator.normal(0, 0.4, len(COMPANIES))[company]
        + issue_effect
        + RESPONSE_EFFECTS[response]
        + 0.4 * ~timely
        + CHANNEL_EFFECTS[channel]
        + generator.normal(0, 0.1, len(STATES))[state]
        - 0.3 * day / NUM_DAYS
        + 0.85 * frustration
    )
    disputed = generator.random(num_complaints) < 1 / (1 + np.exp(-log_odds))
    drawn = _Drawn(
        company=company,
        day=day,
        product=product,
        issue=issue,
        response=response,
        timely=timely,
        channel=channel,
        state=state,
        frustration=frustration,
        disputed=disputed,
    )
    return _table(generator, drawn)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Drawn:
    """What was drawn for every complaint, each (n,): places in lists, and numbers."""

    company: Places
    day: Places
    product: Places
    issue: Places
    response: Places
    timely: NDArray[np.bool_]
    channel: Places
    state: Places
    frustration: Effects
    disputed: NDArray[np.bool_]


def _choose(generator: np.random.Generator, weights: Effects, size: int) -> Places:
    return generator.choice(len(weights), size=size, p=weights / weights.sum())


def _subjects(generator: np.random.Generator, company: Places, day: Places) -> tuple[Places, Places, Effects]:
    """Returns product, issue within it, and the issue's effect on the log-odds, each (n,)."""
    names = list(PRODUCTS)
    mixes = generator.dirichlet(np.full(len(names), 0.8), size=len(COMPANIES)) + 0.02
    shift = np.zeros(len(names))
    shift[names.index("Mortgage")], shift[names.index("Debt collection")] = -0.8, 0.8
    weights = mixes[company] * np.exp(np.outer(day / NUM_DAYS, shift))
    cumulative = np.cumsum(weights / weights.sum(axis=1, keepdims=True), axis=1)
    product = (generator.random(len(company))[:, np.newaxis] > cumulative[:, :-1]).sum(axis=1)
    num_issues = np.array([len(PRODUCTS[name][1]) for name in names])
    issue = (generator.random(len(company)) ** 1.5 * num_issues[product]).astype(np.int64)
    effects = generator.normal(0, 0.6, (len(names), num_issues.max()))
    return product, issue, effects[product, issue]


def _responses(
    generator: np.random.Generator, company: Places, product: Places
) -> tuple[Places, NDArray[np.bool_]]:
    """Returns the kind of response and whether it was timely, each (n,)."""
    generosity = generator.normal(0, 0.5, len(COMPANIES))[company] + 0.3 * (product % 3 == 0)
    scores = np.stack(
        [np.full(len(company), 2.0), 0.2 + generosity, -0.3 + generosity, np.full(len(company), -0.8)]
    )
    gumbel = generator.gumbel(size=scores.shape)
    return (scores + gumbel).argmax(axis=0), generator.random(len(company)) < 0.97


def _table(generator: np.random.Generator, drawn: _Drawn) -> pd.DataFrame:
    """Returns the columns of an export. The draws go on in a fixed order: other orders, other complaints."""
    size = len(drawn.company)
    consented = generator.random(size) < NARRATIVE_PROBABILITY
    received = [FIRST_DAY + dt.timedelta(days=int(number)) for number in drawn.day]
    waits = generator.poisson(2, size)
    tags = np.array(TAGS)[_choose(generator, TAG_WEIGHTS, size)]
    narratives = _narratives(generator, consented, drawn)
    zips = generator.integers(10, 999, size)
    return pd.DataFrame(
        {
            "date_received": [date.isoformat() for date in received],
            **_subject_columns(drawn),
            "consumer_complaint_narrative": narratives,
            "company_public_response": "",
            "company": [COMPANIES[index] for index in drawn.company],
            "state": [list(STATES)[index] for index in drawn.state],
            "zip_code": [f"{number:03d}XX" for number in zips],
            "tags": tags,
            "consumer_consent_provided": np.where(consented, "Consent provided", "Consent not provided"),
            "submitted_via": [CHANNELS[index] for index in drawn.channel],
            "date_sent_to_company": _later(received, waits),
            "company_response_to_consumer": [RESPONSES[index] for index in drawn.response],
            "timely_response": np.where(drawn.timely, "Yes", "No"),
            "consumer_disputed": np.where(drawn.disputed, "Yes", "No"),
            "complaint_id": [str(1_000_000 + number) for number in range(size)],
        }
    )


def _subject_columns(drawn: _Drawn) -> dict[str, list[str] | str]:
    names = list(PRODUCTS)
    products = [names[index] for index in drawn.product]
    subjects = [(*PRODUCTS[name], issue) for name, issue in zip(products, drawn.issue, strict=True)]
    return {
        "product": products,
        "sub_product": [parts[issue % len(parts)] for parts, _, issue in subjects],
        "issue": [issues[issue] for _, issues, issue in subjects],
        "sub_issue": "",
    }


def _later(dates: Sequence[dt.date], days: Places) -> list[str]:
    return [(date + dt.timedelta(days=int(wait))).isoformat() for date, wait in zip(dates, days, strict=True)]


def _narratives(generator: np.random.Generator, written: NDArray[np.bool_], drawn: _Drawn) -> list[str]:
    names = list(PRODUCTS)
    heat = 1 / (1 + np.exp(-1.5 * drawn.frustration))
    return [
        _narrative(generator, names[drawn.product[row]], drawn.issue[row], heat[row]) if written[row] else ""
        for row in range(len(written))
    ]


def _narrative(generator: np.random.Generator, product: str, issue: int, heat: float) -> str:
    draws = generator.random(12)
    topic = PRODUCTS[product][1][issue].lower()
    moods = [
        (HEATED if draw < heat else CALM)[int(place * len(CALM))]
        for draw, place in zip(draws[:4], draws[4:8], strict=True)
    ]
    opening = OPENINGS[int(draws[8] * len(OPENINGS))].format(product=product.lower(), topic=topic)
    details = [DETAILS[int(draw * len(DETAILS))] for draw in draws[9:11]]
    closing = CLOSINGS[int(draws[11] * len(CLOSINGS))]
    return " ".join([opening, moods[0], details[0], moods[1], details[1], *moods[2:], closing])
