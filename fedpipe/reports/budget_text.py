"""A budget report for the terminal: a summary first, then tables that fit into 80 columns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.table import Table

from fedpipe.reports.budget_facts import BudgetReport, GroupFacts
from fedpipe.reports.budget_page import forgotten, share, versions
from fedpipe.reports.budget_plots import short_names
from fedpipe.reports.budget_report import NOTES
from fedpipe.reports.wording import NO_BREAK, listing, plural, round_up

MOST_ROWS = 10


def print_report(report: BudgetReport, console: Console) -> None:
    """Shows `report` on `console`."""
    for line in summary_lines(report):
        console.print(line, highlight=False, markup=False)
    if not report.blocks:
        return
    short = short_names(sorted(each.name for each in report.clients))
    scarcest_spans = sorted(report.spans, key=lambda each: each.share_left)
    tables = (
        _group_table("span", scarcest_spans, {}),
        _group_table("client", report.clients, short),
        _step_table(report),
        _run_table(report),
        _model_table(report) if report.models else None,
    )
    for table in tables:
        if table is not None:
            console.print()
            console.print(table)
    console.print()
    for note in (*report.notes[:2], *report.notes[len(NOTES) :]):
        console.print(note, highlight=False, markup=False)


def summary_lines(report: BudgetReport) -> Iterator[str]:
    """Returns how budgets stand, in a few sentences."""
    if not report.blocks:
        yield "No budgets yet: nothing was ever asked of these records."
        return
    scarcest = report.blocks[0]
    yield (
        f"{plural(report.num_runs, 'run')} with {plural(report.num_releases, 'release')}, "
        f"on {plural(report.num_blocks, 'block')} of {plural(report.num_clients, 'client')} "
        f"and {plural(report.num_spans, 'span')}."
    )
    yield _plain(
        f"Scarcest: {scarcest.name}: {share(scarcest.share_spent)} spent, "
        f"{share(scarcest.share_reserved)} reserved, {share(scarcest.share_left)} left of its budget "
        f"(epsilon {round_up(scarcest.epsilon)} at delta {scarcest.delta:g})."
    )
    yield f"Exhausted: {report.num_exhausted:,} of {plural(report.num_blocks, 'block')}."
    yield from report.forecasts[:MOST_ROWS]
    if report.num_in_gap:
        yield f"{forgotten(report)} See `fedpipe budget check`."
    unprotected = [run.run_id for run in report.runs if run.protection != "private"]
    if unprotected:
        yield (
            f"OUTSIDE ANY BUDGET: {listing(unprotected, most=4)} released without noise, or with seeded "
            "noise. Nothing below limits what they revealed."
        )


def _group_table(head: str, rows: Sequence[GroupFacts], short: dict[str, str]) -> Table:
    table = _table(head, "blocks", "spent", "reserved", "left", "running eps", "runs left")
    for row in rows[:MOST_ROWS]:
        table.add_row(
            short.get(row.name, row.name),
            f"{row.num_blocks:,}",
            _plain(share(row.share_spent)),
            _plain(share(row.share_reserved)),
            _plain(share(row.share_left)),
            "-" if row.running_epsilon is None else round_up(row.running_epsilon),
            "-" if row.retrainings_left is None else str(row.retrainings_left),
        )
    _caption(table, rows, f"{head}s with least left; a row shows its scarcest block")
    return table


def _step_table(report: BudgetReport) -> Table:
    table = _table("step", "of budgets, on average", "releases")
    for row in report.steps:
        table.add_row(row.step, _plain(share(row.mean_share)), f"{row.num_releases:,}")
    return table


def _run_table(report: BudgetReport) -> Table:
    table = _table("run", "began (UTC)", "blocks", "most of a budget", "went into")
    newest = report.runs[::-1]
    for run in newest[:MOST_ROWS]:
        table.add_row(
            run.run_id,
            run.began_at[:16].replace("T", " "),
            f"{run.num_blocks:,}",
            _plain(share(run.largest_share)) if run.protection == "private" else run.protection,
            versions(run.models) or "-",
        )
    _caption(table, newest, "newest runs")
    return table


def _model_table(report: BudgetReport) -> Table:
    table = _table("model", "certified eps", "blocks", "clients", "spans")
    newest = report.models[::-1]
    for model in newest[:MOST_ROWS]:
        table.add_row(
            model.model,
            "NOT PRIVATE" if model.epsilon is None else round_up(model.epsilon),
            f"{model.num_blocks:,}",
            f"{len(model.clients):,}",
            _span_words(model.spans),
        )
    _caption(table, newest, "newest models")
    return table


def _span_words(spans: Sequence[str]) -> str:
    return listing(spans, most=2) if len(spans) < 3 else f"{spans[0]} to {spans[-1]} ({len(spans)})"


def _table(first: str, *others: str) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column(first, overflow="fold")
    for name in others:
        table.add_column(name, justify="right")
    return table


def _caption(table: Table, rows: Sequence[object], of: str) -> None:
    if len(rows) > MOST_ROWS:
        table.caption = f"{MOST_ROWS} of {len(rows):,} {of}"


def _plain(text: str) -> str:
    return text.replace(NO_BREAK, " ")
