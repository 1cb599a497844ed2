"""What an operator's monitoring sees of a federation.

All of it is what the coordinator knows anyway: public settings of plans, who answered and when, and
what claims may cost. Nothing is observed from records. A block's budget belongs to its owner, whose own
node shows how much of it is left; here stands what this federation's runs have claimed of it.
"""

from __future__ import annotations

from collections import Counter as Tally
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter
from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from fedpipe.errors import FedpipeError
from fedpipe.federation import pki
from fedpipe.federation.messages import ABSENT
from fedpipe.pipeline import MetadataReader, RunRecord, Workspace
from server.answers import Answers, read_answers
from server.claims import CLAIM, read_claim
from server.federation.home import FederationHome
from server.federation.members import read_members
from server.federation.runs import FileIdentity, file_identity, last_run

SECONDS_BOUNDS = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
STATUSES = ("RUNNING", "COMPLETE", "FAILED", "CANCELED")
PREFIX = "fedpipe_federation"


class FederationMetrics:
    """Figures of one federation: those of runs come from its files, so that a restart loses none."""

    def __init__(self, home: FederationHome) -> None:
        self._home = home
        self.collectors = CollectorRegistry()
        self._refused = Counter(
            f"{PREFIX}_calls_refused",
            "Calls to the fleet port that were refused, by gRPC status.",
            ("status",),
            registry=self.collectors,
        )
        self.collectors.register(_Runs(home))

    def watch(self, num_online: Callable[[], int]) -> None:
        """Shows members and connections too, as soon as there is a SuperLink to ask."""
        self.collectors.register(_Standing(self._home, num_online))

    def on_refusal(self, status: str) -> None:
        """Counts a call that was refused."""
        self._refused.labels(status).inc()


class _Standing(Collector):
    def __init__(self, home: FederationHome, num_online: Callable[[], int]) -> None:
        self._home, self._num_online = home, num_online

    def collect(self) -> Iterator[Metric]:
        certificate = pki.read_certificate(self._home.certificates[1].decode())
        yield _gauge("nodes_online", "Nodes that are connected.", self._num_online())
        with suppress(FedpipeError):
            yield _gauge("members", "Nodes that may connect.", len(read_members(self._home).present()))
        yield _gauge(
            "certificate_expiry_timestamp_seconds",
            "When the server certificate expires.",
            pki.expires_at(certificate).timestamp(),
        )


class _Runs(Collector):
    def __init__(self, home: FederationHome) -> None:
        self._home = home

    def collect(self) -> Iterator[Metric]:
        workspace = self._home.workspace()
        if not workspace.metadata_path.exists():
            return
        runs = MetadataReader.open_existing(workspace.metadata_path).runs()
        statuses = Tally[str](run.status for run in runs)
        yield _labelled(
            "runs", "Runs by status.", ("status",), [((each,), statuses[each]) for each in STATUSES]
        )
        yield _claimed(workspace, runs)
        last = last_run(workspace)
        if last is not None:
            found = next((run for run in runs if run.run_id == last[0]), None)
            yield from _last_run(workspace, last[0], found)


def _last_run(workspace: Workspace, run_id: str, found: RunRecord | None) -> Iterator[Metric]:
    directory = workspace.runs_dir / run_id
    answers = read_answers(directory) or []
    cohorts: dict[int, set[str]] = defaultdict(set)
    for each in answers:
        if each.step == "train":
            cohorts[each.round].update(each.clients)
    newest = max(cohorts, default=0)
    yield _gauge("run_round", "Newest round of the last run.", newest)
    yield _gauge(
        "run_cohort_size", "Clients that answered that round.", len(cohorts[newest]) if newest else 0
    )
    claim = read_claim(directory)
    yield _gauge("run_clients", "Clients that accepted the last run.", len(claim.clients) if claim else 0)
    refusals = Tally(kind or "failed" for each in answers for kind in each.refused.values())
    refusals["claim"] += len(claim.refusals) if claim else 0
    kinds = sorted({"claim", ABSENT, *refusals})
    yield _labelled(
        "run_refusals",
        "Answers that the last run did not get, by kind; claim: of those that would not take part.",
        ("kind",),
        [((kind,), refusals[kind]) for kind in kinds],
    )
    yield _seconds(answers)
    if found is not None and found.epsilon is not None:
        yield _gauge("run_epsilon", "Epsilon that the last run may cost a record.", found.epsilon)
        yield _gauge("run_delta", "Delta of that epsilon.", found.delta or 0.0)


def _seconds(answers: Iterable[Answers]) -> HistogramMetricFamily:
    by_step: dict[str, list[float]] = defaultdict(list)
    for each in answers:
        by_step[each.step].append(each.seconds)
    family = HistogramMetricFamily(
        f"{PREFIX}_run_question_seconds",
        "From a question to its last answer, in the last run.",
        labels=("step",),
    )
    for step, seconds in sorted(by_step.items()):
        buckets = [(str(bound), float(sum(each <= bound for each in seconds))) for bound in SECONDS_BOUNDS]
        family.add_metric((step,), [*buckets, ("+Inf", float(len(seconds)))], sum(seconds))
    return family


@lru_cache(maxsize=1 << 16)
def _claimed_pairs(directory: Path, _identity: FileIdentity) -> tuple[tuple[str, str], ...]:
    """Returns who claimed which spans in a run: read once, however often somebody looks."""
    claim = read_claim(directory)
    attestations = claim.attestations if claim else ()
    return tuple(
        (each.statement.client, span) for each in attestations for span in each.statement.commitments
    )


def _claimed(workspace: Workspace, runs: Sequence[RunRecord]) -> GaugeMetricFamily:
    """Returns, by client and span, the epsilons of all claims added.

    They hold together with the sum of the claims' deltas (basic composition), not with one of them.
    """
    total: dict[tuple[str, ...], float] = defaultdict(float)
    for run in runs:
        directory = workspace.runs_dir / run.run_id
        identity = file_identity(directory / CLAIM)
        for pair in _claimed_pairs(directory, identity) if run.epsilon and identity else ():
            total[pair] += run.epsilon or 0.0
    return _labelled(
        "claimed_epsilon",
        "Epsilons that runs have claimed of a client's span, added up; their deltas add up as well.",
        ("client", "span"),
        total.items(),
    )


def _gauge(name: str, meaning: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"{PREFIX}_{name}", meaning, value=value)


def _labelled(
    name: str,
    meaning: str,
    labels: Sequence[str],
    values: Iterable[tuple[tuple[str, ...], float]],
) -> GaugeMetricFamily:
    family = GaugeMetricFamily(f"{PREFIX}_{name}", meaning, labels=labels)
    for key, value in sorted(values):
        family.add_metric(key, value)
    return family
