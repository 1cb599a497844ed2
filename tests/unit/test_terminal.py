"""What people see while they wait, and at the end."""

from __future__ import annotations

import io
import re
from typing import Any

import pytest
from rich.console import Console
from rich.progress import Progress

from fedpipe.doctor import Check
from fedpipe.learning.evaluation import Estimate, Metrics
from fedpipe.ledger.certificate import PrivacyStatement
from fedpipe.reports.evidence import Budget
from fedpipe.reports.summary import Paths, RunSummary, SimulationOnly
from fedpipe.terminal import TerminalProgress, print_checks, print_summary, terminal_progress

PRIVACY = {
    "status": "private",
    "unit": "record",
    "neighboring_relation": "add_or_remove_one",
    "epsilon": 8.0012,
    "delta": 1e-5,
    "accountant": "PLD",
    "randomness": "secure",
    "arithmetic": "float32",
}


def summary(simulation_only: SimulationOnly | None = None, **privacy: Any) -> RunSummary:
    estimate = Estimate(estimate=0.75, lower=0.5, upper=0.875)
    return RunSummary(
        run_id="run-1",
        status="COMPLETE",
        name="small",
        model_version="small:1",
        privacy=PrivacyStatement.model_validate(PRIVACY | privacy),
        metrics=Metrics(**dict.fromkeys(Metrics.model_fields, estimate)),
        better_than_chance=True,
        num_clients=3,
        rounds=5,
        warnings=("a [bold]client[/bold] says: no",),
        simulation_only=simulation_only,
        paths=Paths(report="/w/report.html", model="/w/m", certificate="/w/c", workspace="/w"),
        timings_seconds={},
    )


def printed(what: RunSummary) -> str:
    stream = io.StringIO()
    print_summary(Console(file=stream, width=100), what)
    return stream.getvalue()


def test_the_guarantee_comes_before_the_quality() -> None:
    text = printed(summary())
    assert text.index("epsilon") < text.index("auc")
    assert "epsilon = 8.01, delta = 1e-05" in text  # never less than it is
    assert "/w/report.html" in text


def test_it_says_who_signed_and_how_to_check() -> None:
    assert "budget verify" not in printed(summary())
    text = printed(summary().model_copy(update={"signed_by": "A" * 43 + "="}))
    assert f"signed by   {'A' * 43}=" in text
    assert "fedpipe budget verify /w/c" in text


def test_a_run_without_privacy_says_so_first() -> None:
    text = printed(summary(status="NOT PRIVATE", epsilon=None, delta=None))
    assert text.index("NOT PRIVATE") < text.index("auc")
    assert "epsilon =" not in text


def test_exact_figures_are_marked_as_known_in_simulation_only() -> None:
    exact = SimulationOnly(exact_metrics={"auc": 0.8125}, baseline={"auc": 0.9}, num_examples={})
    assert "exact*" not in printed(summary())
    text = printed(summary(exact))
    assert "0.812" in text
    assert "known in simulation only" in text


def test_what_clients_say_cannot_format_the_terminal() -> None:
    assert "a [bold]client[/bold] says: no" in printed(summary())


def spent(by_this_run: float, **fields: Any) -> str:
    budgets = (
        Budget(split="train", epsilon=9, delta=1e-5, used=0.5, by_this_run=by_this_run, runs_left=2),
        Budget(split="eval", epsilon=9, delta=1e-5, used=0.2, by_this_run=0, runs_left=7),
    )
    return printed(summary().model_copy(update={"budgets": budgets, **fields}))


def test_the_summary_says_what_the_run_spent_and_what_is_left_where_least_is() -> None:
    text = spent(0.25)
    assert "Spent 25 % of the lifetime budget" in text
    assert "Left for later: 2 runs like this one." in text
    assert "Taken from" not in text
    assert "Resumed" not in text


def test_a_cached_run_spent_nothing_and_names_the_run_that_did() -> None:
    text = spent(0, reused={"statistics": "run-0", "train": "run-0"})
    assert "Spent nothing: the steps come from run run-0" in text
    assert "%" not in text[text.index("Spent") :].partition("\n")[0]


def test_a_partly_cached_run_says_what_it_took_and_what_it_spent() -> None:
    text = spent(0.125, reused={"statistics": "run-0"}, resumed=True)
    assert "Spent 12 %" in text
    assert "Taken from run run-0, at no charge: statistics." in text
    assert "Resumed: what clients had answered before was not charged again." in text


@pytest.mark.parametrize("terminal", [True, False])
def test_every_finished_step_is_a_line(terminal: bool) -> None:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=terminal, width=80)
    with terminal_progress(console) as progress:
        progress.step_started("train", 4, 7)
        progress.step_progress("train", 1, 10)
        progress.step_finished("train", 2.5, "COMPLETE")
        progress.step_started("analyze", 5, 7)
        progress.step_finished("analyze", 0.1, "CACHED")
    assert "[4/7] train" in stream.getvalue()
    if not terminal:
        assert stream.getvalue().splitlines() == [
            "[4/7] train      done in 2.5 s",
            "[5/7] analyze    already done in 0.1 s",
        ]


def test_a_long_step_tells_a_pipe_now_and_then_how_far_it_is() -> None:
    stream, now = io.StringIO(), [0.0]
    console = Console(file=stream, width=40)
    progress = TerminalProgress(console, Progress(disable=True), moving=False, clock=lambda: now[0])
    progress.step_started("train", 4, 7)
    for done in range(20, 101):  # resumed after 20 rounds, one a second from here
        progress.step_progress("train", done, 100)
        now[0] += 1.0
    lines = stream.getvalue().splitlines()
    assert lines[0] == "[4/7] train      35 of 100 rounds, about 65 s left"
    assert len(lines) == 5
    assert "\x1b" not in stream.getvalue()


@pytest.mark.parametrize("width", [40, 60])
def test_a_narrow_terminal_gets_every_figure_on_lines_that_fit(width: int) -> None:
    exact = SimulationOnly(exact_metrics={"auc": 0.8125}, baseline={"auc": 0.9}, num_examples={})
    stream = io.StringIO()
    print_summary(Console(file=stream, width=width), summary(exact))
    text = stream.getvalue()
    for part in ("0.750  (0.500 - 0.875)", "exact* 0.812, pooled* 0.900", "in simulation only"):
        assert part in text
    figures = [line for line in text.splitlines() if "(0." in line or "*" in line]
    assert max(map(len, figures)) <= width
    assert "…" not in text


def test_a_dumb_terminal_gets_no_control_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=80)
    with terminal_progress(console) as progress:
        progress.step_started("train", 4, 7)
        progress.step_progress("train", 1, 10)
        progress.note("careful")
        progress.step_finished("train", 2.5, "COMPLETE")
    print_summary(console, summary())
    assert "\x1b" not in stream.getvalue()


def test_no_color_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=80)
    print_summary(console, summary())
    print_checks([Check(name="disk", state="missing", found="none", remedy="buy one")], console)
    assert not re.search(r"\x1b\[[0-9;]*(3[0-9]|9[0-7])[0-9;]*m", stream.getvalue())


def test_checks_are_lines_that_nothing_wraps() -> None:
    stream = io.StringIO()
    checks = [Check(name="disk", state="missing", found="0.1 GiB free", remedy="free some " * 9)]
    print_checks(checks, Console(file=stream, width=40))
    first, second, last = stream.getvalue().splitlines()
    assert first == "missing     disk  0.1 GiB free"
    assert second.strip().startswith("-> free some")
    assert last == "1 missing: see above."


def test_a_quiet_console_shows_nothing_and_no_empty_line() -> None:
    stream = io.StringIO()
    with terminal_progress(Console(file=stream, quiet=True)):
        pass
    assert stream.getvalue() == ""
