"""What people see while they wait, and at the end. Everything but results goes to stderr."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.progress import (
    Progress as Bars,
)
from rich.table import Table
from rich.text import Text

from fedpipe.doctor import Check
from fedpipe.reports.summary import RunSummary
from fedpipe.reports.wording import round_up


class TerminalProgress:
    """Shows one line per finished step and a bar for the rounds of the running one."""

    def __init__(self, console: Console, bars: Bars) -> None:
        self._console = console
        self._bars = bars
        self._task: TaskID | None = None
        self._label = ""

    def step_started(self, name: str, index: int, total: int) -> None:
        """Shows the step as running."""
        self._label = f"[{index}/{total}] {name}"
        self._task = self._bars.add_task(self._label.replace("[", r"\["), total=None)

    def step_progress(self, name: str, done: int, total: int) -> None:
        """Moves the bar."""
        if self._task is not None:
            self._bars.update(self._task, completed=done, total=total)

    def note(self, text: str) -> None:
        """Prints a line above the bar."""
        self._console.print(f"Note: {text}", style="yellow", markup=False, highlight=False)

    def step_finished(self, name: str, seconds: float, status: str) -> None:
        """Replaces the bar by a line."""
        if self._task is not None:
            self._bars.remove_task(self._task)
            self._task = None
        done = {"COMPLETE": "done", "CACHED": "already done"}.get(status, status.lower())
        self._console.print(f"{self._label:<16} {done} in {seconds:.1f} s", markup=False, highlight=False)


@contextmanager
def terminal_progress(console: Console) -> Iterator[TerminalProgress]:
    """Shows progress on `console` while the block runs."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeRemainingColumn(compact=True),
    )
    bars = Bars(*columns, console=console, transient=True, disable=not console.is_terminal)
    # Elsewhere than in a terminal, bars would end with an empty line.
    with bars if console.is_terminal else nullcontext():
        yield TerminalProgress(console, bars)


def print_summary(console: Console, summary: RunSummary) -> None:
    """Shows what a run came to: privacy first, then quality, then where things are."""
    console.print()
    console.print(
        f"Model {summary.model_version}, from {summary.num_clients} clients", style="bold", highlight=False
    )
    console.print(privacy_line(summary), highlight=False)
    console.print(_metrics_table(summary))
    for warning in summary.warnings:
        console.print(f"Note: {warning}", style="yellow", markup=False, highlight=False)
    for name, path in summary.paths.model_dump().items():
        console.print(f"{name:<12}{path}", highlight=False, soft_wrap=True, markup=False)
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
        table.caption = "* known in simulation only; a federation never sees these"
    return table


def _figure(figures: dict[str, float], name: str) -> str:
    return f"{figures[name]:.3f}" if name in figures else "-"


def print_checks(checks: Sequence[Check]) -> None:
    """Shows what `fedpipe doctor` found: a line for each check, and below it the command that mends it."""
    console = Console(highlight=False, soft_wrap=True)
    width = max(len(check.name) for check in checks)
    styles = {"ok": "green", "missing": "bold red", "not needed": "dim"}
    for check in checks:
        line = Text(f"{check.state:<10}", style=styles[check.state])
        console.print(line.append(f"  {check.name:<{width}}  {check.found}", style="default"))
        if check.remedy:
            console.print(Text(f"{'':<10}  -> {check.remedy}"))
    missing = sum(check.state == "missing" for check in checks)
    console.print("Ready for: fedpipe simulate" if not missing else f"{missing} missing: see above.")
