"""Where the certificate answers what NIST SP 800-226 asks of a differential privacy guarantee.

Near, Darais, Lefkovitz, Howarth: Guidelines for Evaluating Differential Privacy Guarantees, NIST
Special Publication 800-226, March 2025 (doi:10.6028/NIST.SP.800-226). Its pyramid has three layers, one for
each of its Sections 2 to 4; what a layer promises depends on those below it.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Layer = Literal["guarantee", "algorithms", "deployment"]


class NistAnswer(BaseModel):
    """One factor of the pyramid, and where a reader finds it; `fields` are paths within the certificate."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    layer: Layer = Field(description="Top, middle or bottom of the pyramid: Section 2, 3 or 4.")
    section: str
    factor: str
    fields: tuple[str, ...]
    answer: str


_ROWS: tuple[tuple[Layer, str, str, tuple[str, ...], str], ...] = (
    (
        "guarantee",
        "2.2",
        "Privacy parameters",
        ("privacy.epsilon", "privacy.delta", "blocks"),
        "One (epsilon, delta) over all planned events of the run; the larger of the groups of records.",
    ),
    (
        "guarantee",
        "2.3",
        "Variant of differential privacy",
        ("privacy.accountant", "blocks"),
        "Approximate differential privacy, computed from the events themselves, which are all listed.",
    ),
    (
        "guarantee",
        "2.4",
        "Unit of privacy",
        ("privacy.unit", "privacy.neighboring_relation"),
        (
            "Unbounded: neighbours differ by adding or removing one unit at one client. A person with more "
            "units, or at several clients, is protected for each of them separately."
        ),
    ),
    (
        "guarantee",
        "2.5",
        "Comparing guarantees",
        ("blocks", "privacy.delta"),
        "From the events, epsilon follows at any delta and under any other variant.",
    ),
    (
        "guarantee",
        "2.6",
        "Other releases of the same data",
        ("earlier_runs", "commitments", "attestations"),
        (
            "Results of earlier runs that were used are in this epsilon. Other runs on the same records are "
            "bounded by the lifetime budgets in the clients' ledgers, not by this certificate."
        ),
    ),
    (
        "guarantee",
        "2.7",
        "Auditing and empirical measures",
        (),
        "Not in the certificate: an audit can find a violation, and never proves a guarantee.",
    ),
    (
        "algorithms",
        "3.1",
        "Mechanisms, sensitivity and correctness",
        ("mechanisms", "plan", "not_proven"),
        (
            "Gaussian noise on clipped sums over Poisson samples, discrete Gaussian noise on counts. That a "
            "client ran them as planned is trusted, not proven."
        ),
    ),
    (
        "algorithms",
        "3.2",
        "Utility and accuracy",
        (),
        "Not in the certificate: the run's report states every metric with an interval for the noise.",
    ),
    (
        "algorithms",
        "3.3",
        "Bias",
        (),
        "Not in the certificate: the run's report compares clients and groups, noise in its intervals.",
    ),
    (
        "deployment",
        "4.1",
        "Query model",
        ("plan", "releases"),
        "A fixed plan, agreed to before any record was read: no queries beyond it.",
    ),
    (
        "deployment",
        "4.2",
        "Trust model",
        ("attestations", "not_proven"),
        "Noise is added at each client. Its owner trusts her own node; nobody else is trusted with records.",
    ),
    (
        "deployment",
        "4.3",
        "Implementation: floating point, side channels, randomness",
        ("privacy.arithmetic", "privacy.randomness", "code", "not_proven"),
        "Counts are exact. Sums are float32 under a real-valued analysis; timing is not covered.",
    ),
    (
        "deployment",
        "4.4",
        "Security and access control",
        ("commitments", "attestations", "signature"),
        "Keys and ledgers stay with their owners, closed to other users of a machine; signatures show whose.",
    ),
    (
        "deployment",
        "4.5",
        "Exposure by data collection",
        (),
        "Outside the certificate: records were collected, and are kept, by each client as before.",
    ),
)

NIST_SP_800_226 = tuple(
    NistAnswer(layer=layer, section=section, factor=factor, fields=fields, answer=answer)
    for layer, section, factor, fields, answer in _ROWS
)
