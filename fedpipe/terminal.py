"""What people see while they wait, and at the end. Everything but results goes to stderr."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn
from rich.progress import Progress as Bars
from rich.table import Table
from rich.text import Text

from fedpipe.doctor import Check
from fedpipe.reports.summary import RunSummary
from fedpipe.reports.wording import NO_BREAK, percent, plural, round_up

_BAR, _NARROW_BAR = 30, 8
_PATIENCE_SECONDS = 15.0  # between two lines about one step, where no bar can move
_METRICS_WIDTH = 78
_SIMULATION_ONLY = "* known in simulation only; a federation never sees these"


class TerminalProgress:
    """Shows one line per finished step and a bar for the rounds of the running one.

    Where bars cannot move (pipes, files, dumb terminals), long steps say now and then how far they are.
    """

    def __init__(
        self, console: Console, bars: Bars, *, moving: bool, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._console = console
        self._bars = bars
        self._moving = moving
        self._clock = clock
        self._task: TaskID | None = None
        self._label = ""
        self._begun = self._told = 0.0
        self._first = 0

    def step_started(self, name: str, index: int, total: int) -> None:
        """Shows the step as running."""
        self._label = f"[{index}/{total}] {name}"
        self._begun = self._told = self._clock()
        self._first = -1
        self._task = self._bars.add_task(self._label.replace("[", r"\["), total=None, rounds="")

    def step_progress(self, name: str, done: int, total: int) -> None:
        """Moves the bar."""
        now = self._clock()
        if self._first < 0:  # a resumed step does not begin at nothing
            self._first, self._begun = done, now
        left = _left(now - self._begun, done - self._first, total - done)
        if self._task is not None:
            wide = self._console.width >= _METRICS_WIDTH
            rounds = f"{done} of {total} rounds{left}" if wide else f"{done}/{total}"
            self._bars.update(self._task, completed=done, total=total, rounds=rounds)
        if not self._moving and done < total and now - self._told >= _PATIENCE_SECONDS:
            self._told = now
            self._say(f"{self._label:<16} {done} of {total} rounds{left}")

    def note(self, text: str) -> None:
        """Prints a line above the bar."""
        self._console.print(f"Note: {text}", style="yellow", markup=False, highlight=False)

    def _say(self, line: str) -> None:
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)

    def step_finished(self, name: str, seconds: float, status: str) -> None:
        """Replaces the bar by a line."""
        if self._task is not None:
            self._bars.remove_task(self._task)
            self._task = None
        done = {"COMPLETE": "done", "CACHED": "already done"}.get(status, status.lower())
        self._say(f"{self._label:<16} {done} in {seconds:.1f} s")


@contextmanager
def terminal_progress(console: Console) -> Iterator[TerminalProgress]:
    """Shows progress on `console` while the block runs."""
    moving = console.is_terminal and not console.is_dumb_terminal
    bar = BarColumn(bar_width=_BAR if console.width >= _METRICS_WIDTH else _NARROW_BAR)
    columns = (TextColumn("{task.description}"), bar, TextColumn("{task.fields[rounds]}"))
    bars = Bars(*columns, console=console, transient=True, disable=not moving)
    # Where nothing moves, bars would end with an empty line.
    with bars if moving else nullcontext():
        yield TerminalProgress(console, bars, moving=moving)


def _left(seconds: float, done: int, rest: int) -> str:
    """Returns how long `rest` rounds will take if they take as long as the `done` ones, in words."""
    if done <= 0 or rest <= 0:
        return ""
    left = math.ceil(seconds / done * rest)
    return f", about {left} s left" if left < 100 else f", about {math.ceil(left / 60)} min left"


def print_summary(console: Console, summary: RunSummary) -> None:
    """Shows what a run came to: privacy first, then quality, then where things are."""
    console.print()
    console.print(
        f"Model {summary.model_version}, from {summary.num_clients} clients", style="bold", highlight=False
    )
    console.print(privacy_line(summary), highlight=False)
    if console.width >= _METRICS_WIDTH:
        console.print(_metrics_table(summary))
    else:
        for line in _metrics_lines(summary):
            console.print(line, highlight=False, markup=False)
    for line in spending_lines(summary):
        console.print(line, highlight=False, markup=False)
    for warning in summary.warnings:
        console.print(f"Note: {warning}", style="yellow", markup=False, highlight=False)
    for name, path in summary.paths.model_dump().items():
        console.print(f"{name:<12}{path}", highlight=False, soft_wrap=True, markup=False)
    if summary.signed_by:
        console.print(f"{'signed by':<12}{summary.signed_by}", highlight=False, soft_wrap=True, markup=False)
        console.print(
            f"Check it:   fedpipe budget verify {summary.paths.certificate}",
            highlight=False,
            soft_wrap=True,
            markup=False,
        )
    console.print(
        f"Try it:     fedpipe predict --model {summary.model_version} --input FILE "
        f"--workspace {summary.paths.workspace}",
        highlight=False,
        soft_wrap=True,
        markup=False,
    )


def privacy_line(summary: RunSummary) -> str:
    """Returns the guarantee in one sentence."""
    privacy = summary.privacy
    if privacy.epsilon is None:
        return "NOT PRIVATE: this run added no noise."
    return (
        f"Each {privacy.unit} at a client is protected with epsilon = {round_up(privacy.epsilon)}, "
        f"delta = {privacy.delta:g} (add or remove one {privacy.unit}; all steps together)."
    )


def spending_lines(summary: RunSummary) -> Iterator[str]:
    """Returns what the run spent of lifetime budgets, and what it took from before at no charge."""
    earlier = ", ".join(sorted(set(summary.reused.values())))
    asked = not summary.reused or any(each.by_this_run for each in summary.budgets)
    if summary.reused and not asked:
        yield f"Spent nothing: the steps come from run {earlier}; --fresh would ask, and pay, again."
    elif summary.budgets:
        spent = percent(max(each.by_this_run for each in summary.budgets))
        yield f"Spent {spent} of the lifetime budget of its records.".replace(NO_BREAK, " ")
    if asked and summary.reused:
        yield f"Taken from run {earlier}, at no charge: {', '.join(summary.reused)}."
    if summary.resumed:
        yield "Resumed: what clients had answered before was not charged again."
    if summary.budgets:
        left = min(each.runs_left for each in summary.budgets)
        yield f"Left for later: {plural(left, 'run') if left else 'no run'} like this one."


def _metrics_table(summary: RunSummary) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("metric")
    table.add_column("private estimate", justify="right")
    table.add_column("95 % interval", justify="right")
    exact = summary.simulation_only
    if exact:
        table.add_column("exact*", justify="right")
        table.add_column("pooled, no privacy*", justify="right")
    for name, value in summary.metrics:
        row = [name.replace("_", " "), f"{value.estimate:.3f}", f"{value.lower:.3f} - {value.upper:.3f}"]
        if exact:
            row += [_figure(exact.exact_metrics, name), _figure(exact.baseline, name)]
        table.add_row(*row)
    if exact:
        table.caption = _SIMULATION_ONLY
    return table


def _metrics_lines(summary: RunSummary) -> Iterator[str]:
    """Returns the table's content for terminals that are too narrow for it."""
    exact = summary.simulation_only
    for name, value in summary.metrics:
        yield name.replace("_", " ")
        yield f"  {value.estimate:.3f}  ({value.lower:.3f} - {value.upper:.3f})"
        if exact:
            yield f"  exact* {_figure(exact.exact_metrics, name)}, pooled* {_figure(exact.baseline, name)}"
    yield "private estimates, 95 % intervals"
    if exact:
        yield _SIMULATION_ONLY


def _figure(figures: dict[str, float], name: str) -> str:
    return f"{figures[name]:.3f}" if name in figures else "-"


def print_checks(checks: Sequence[Check], console: Console) -> None:
    """Shows what `fedpipe doctor` found: a line for each check, and below it the command that mends it."""
    width = max(len(check.name) for check in checks)
    styles = {"ok": "green", "missing": "bold red", "not needed": "dim"}
    for check in checks:
        line = Text(f"{check.state:<10}", style=styles[check.state])
        line.append(f"  {check.name:<{width}}  {check.found}", style="default")
        console.print(line, highlight=False, soft_wrap=True)
        if check.remedy:
            console.print(Text(f"{'':<10}  -> {check.remedy}"), highlight=False, soft_wrap=True)
    missing = sum(check.state == "missing" for check in checks)
    console.print("Ready for: fedpipe simulate" if not missing else f"{missing} missing: see above.")
