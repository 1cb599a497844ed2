"""A week of a scenario: new records arrive, the cycle runs as it does for everybody, its fate is noted."""

from __future__ import annotations

import io
import time
from collections.abc import Sequence
from pathlib import Path

from fedpipe.errors import BudgetError, DataError, FederationError
from fedpipe.files import write_atomically
from fedpipe.ledger import utc_now
from fedpipe.pipeline import SilentProgress, Workspace
from simulations.past_runs import runs_of
from simulations.request import SimulationRequest
from simulations.run import simulate
from simulations.scenarios.figures import known_figures
from simulations.scenarios.outcomes import Attempt, Diary, Fate, Week
from simulations.scenarios.records import exported
from simulations.scenarios.settings import Scenario


def live_through(workspace: Workspace, scenario: Scenario, number: int, diary: Diary) -> Week:
    """Runs week `number`, or what is left of it, and returns what came of it. The caller holds the lock.

    An interrupted run goes on; the request of a run that had ended is answered from its results. So a
    process that dies anywhere pays for nothing twice.
    """
    week = diary.week(number) or Week(
        number=number,
        span=scenario.span(number),
        events=tuple(event.words() for event in scenario.events if event.week == number),
    )
    files = _write_exports(scenario, number, diary.directory / "exports")
    wanted = [
        scenario.spans(number),
        *(scenario.spans(number)[-1:] for _ in scenario.during(number, "extra_run")),
    ]
    for spans in wanted[len(week.attempts) :]:
        begun = time.monotonic()
        attempt = _attempt(workspace, scenario, number, files, spans, extra=bool(week.attempts))
        week = week.model_copy(
            update={
                "attempts": (*week.attempts, attempt),
                "seconds": round(week.seconds + time.monotonic() - begun, 2),
                "is_over": len(week.attempts) + 1 == len(wanted),
            }
        )
        diary.keep(week)
    return week


def _write_exports(scenario: Scenario, number: int, directory: Path) -> list[Path]:
    """Writes what each client exports this week; the file of one that is away is left as it was."""
    paths = []
    for client in scenario.present(number):
        stream = io.BytesIO()
        exported(scenario, client, number).to_csv(stream, index=False)
        content = stream.getvalue()
        paths.append(directory / f"client-{client}.csv")
        write_atomically(paths[-1], lambda file, content=content: file.write(content))  # type: ignore[misc]
    return paths


def _attempt(
    workspace: Workspace,
    scenario: Scenario,
    number: int,
    files: Sequence[Path],
    spans: tuple[str, ...],
    *,
    extra: bool,
) -> Attempt:
    config = scenario.config(number, spans)
    request = SimulationRequest.make(config, [str(file) for file in files], scenario.seed)
    fate, reason, exact_auc = _run(workspace, request)
    run_ids = tuple(runs_of(workspace, request))
    return Attempt(
        extra=extra,
        run_ids=run_ids,
        spans=spans,
        clients=tuple(file.stem for file in files),
        fate=fate,
        reason=reason,
        exact_auc=exact_auc,
        **known_figures(workspace, run_ids, reason if fate == "stopped" else ""),
    )


def _run(workspace: Workspace, request: SimulationRequest) -> tuple[Fate, str, float | None]:
    """Returns what came of a run, why, and the exact AUC that only a simulation knows."""
    try:
        summary = simulate(workspace, request, progress=SilentProgress(), now=utc_now())
    except BudgetError as error:
        return "refused", str(error), None
    except DataError as error:
        return "stopped", str(error), None
    except FederationError as error:
        return "too few", str(error), None
    known = summary.simulation_only
    return "trained", "", known.exact_metrics.get("auc") if known else None
