"""The budget report in a real browser: its plots are drawn, and nothing is complained about."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from fedpipe.ledger import Block, Ledger, ReleaseId, policy_for_runs
from fedpipe.privacy import Demand, Shares, calibrate
from fedpipe.reports.budget_page import render_page
from server.budgets import gather_report

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
HOSTILE = "small.<i>bob<img src=x>&'\""

pytestmark = [pytest.mark.slow, pytest.mark.skipif(BROWSER is None, reason="needs chromium")]


@pytest.fixture(scope="module")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ledger") / "ledger.sqlite"
    demand = Demand(
        column_histograms=2,
        feature_histograms=1,
        score_histograms=1,
        sampling_probability=0.2,
        clipping_norm=1.0,
        num_rounds=3,
        local_steps=1,
        keyed=True,
    )
    plan = calibrate(
        demand, epsilon_target=2.0, delta=1e-5, shares=Shares.model_validate({}), randomness="secure"
    )
    with Ledger(path) as opened:
        for run_id, client in ((f"run-{n}", c) for n in range(3) for c in ("small.ada", HOSTILE)):
            pairs = [(span, split) for span in ("2026-01", "2026-02") for split in plan.splits]
            opened.reserve(
                run_id=run_id,
                client=client,
                terms="{}",
                terms_digest="d",
                plan=plan,
                blocks=[Block(client=client, span=span, split=split) for span, split in pairs],
                policy=policy_for_runs(plan, 4),
            )
            release = ReleaseId(run_id=run_id, client=client, step="statistics")
            opened.commit(release, request_digest="r", reply=b"x")
    return path


def test_plots_are_drawn_and_the_console_stays_silent(ledger: Path, tmp_path: Path) -> None:
    page = render_page(gather_report(None, [ledger]))
    file = tmp_path / "budget.html"
    file.write_text(page, encoding="utf-8")
    command = [
        str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr",
        f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=10000", "--dump-dom", file.as_uri(),
    ]  # fmt: skip
    shown = subprocess.run(command, capture_output=True, text=True, timeout=180, check=True)
    drawn = re.search(r'<body data-drawn="(\d+)"', shown.stdout)
    assert drawn is not None
    assert int(drawn[1]) == page.count('class="plotly"') >= 5
    assert shown.stdout.count('class="main-svg"') >= int(drawn[1])
    assert "CONSOLE" not in shown.stderr
    assert "<i>bob" not in shown.stdout
