import datetime as dt
import json
from typing import Any

import pytest

from fedpipe.config import load_config
from fedpipe.errors import ConfigError
from fedpipe.files import write_text
from server.federation.home import FederationHome
from server.federation.runs import REQUEST, SUMMARY, FederationRequest, last_run
from server.federation.schedule import is_due, make_schedule, read_schedule, write_schedule
from server.federation.spans import num_new_spans, with_spans

TIME = {"column": "date_received", "window": "month"}


def at(text: str) -> dt.datetime:
    return dt.datetime.fromisoformat(text).replace(tzinfo=dt.timezone.utc)


def begun(home: FederationHome, run_id: str, *overrides: str) -> None:
    """Leaves the trace of a run that began at a moment."""
    config = load_config("breast_cancer", overrides)
    request = FederationRequest(number=1, config=config.model_dump(mode="json", by_alias=True), seed=0)
    directory = home.workspace().make_step_dir(run_id, "ingest").parent
    (directory / REQUEST).write_text(request.model_dump_json())


def test_a_cron_date_is_due_once(home: FederationHome) -> None:
    schedule = make_schedule(config="breast_cancer", cron="0 3 * * 1", since=at("2026-05-05 12:00"))

    assert not is_due(home, schedule, at("2026-05-11 02:59"))
    assert is_due(home, schedule, at("2026-05-11 03:00"))
    begun(home, "20260511-030010-abcd")
    assert not is_due(home, schedule, at("2026-05-11 03:05"))
    assert is_due(home, schedule, at("2026-05-18 03:00"))


def test_the_last_run_is_that_of_the_highest_number_as_it_is_now(home: FederationHome) -> None:
    begun(home, "20260301-030010-abcd")
    begun(home, "20260201-030010-abcd")
    path = home.workspace().runs_dir / "20260201-030010-abcd" / REQUEST
    for number, newest in ((2, "20260201"), (0, "20260301")):
        asked = FederationRequest.model_validate_json(path.read_bytes())
        write_text(path, asked.model_copy(update={"number": number}).model_dump_json())
        last = last_run(home.workspace())
        assert last is not None
        assert last[0].startswith(newest)

    write_text(path, "{}")  # what another version began
    assert last_run(home.workspace()) == last


def test_dates_before_the_schedule_are_not_made_up_for(home: FederationHome) -> None:
    begun(home, "20260301-030010-abcd")
    schedule = make_schedule(config="breast_cancer", cron="0 3 * * 1", since=at("2026-05-05 12:00"))

    assert not is_due(home, schedule, at("2026-05-06 12:00"))


def test_enough_new_spans_are_due(home: FederationHome) -> None:
    schedule = make_schedule(config="breast_cancer", new_spans=2, since=at("2026-01-01"))
    assert is_due(home, schedule, at("2026-05-06"))  # there was no run yet

    begun(
        home, "20260401-000000-abcd", f"schema.time={json.dumps(TIME)}", "spans.names=['2026-02', '2026-03']"
    )
    assert is_due(home, schedule, at("2026-05-06"))  # it did not come to its end

    (home.workspace().runs_dir / "20260401-000000-abcd" / SUMMARY).write_text("{}")
    assert not is_due(home, schedule, at("2026-05-06"))
    assert is_due(home, schedule, at("2026-06-02"))


@pytest.mark.parametrize(
    "mistake", [{}, {"cron": "0 3 * * 1", "new_spans": 1}, {"cron": "whenever"}, {"new_spans": 0}]
)
def test_mistakes_are_told(mistake: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="Expected a schedule"):
        make_schedule(config="breast_cancer", since=at("2026-01-01"), **mistake)


def test_a_schedule_survives_its_file(home: FederationHome) -> None:
    schedule = make_schedule(
        config="breast_cancer", set=("privacy.epsilon=2",), cron="0 3 * * 1", since=at("2026-01-01")
    )
    assert read_schedule(home) is None
    write_schedule(home, schedule)

    assert read_schedule(home) == schedule


@pytest.mark.parametrize("text", ["cron: [\n", "- a list\n", "", "cron: 1\ncron: 2\n"])
def test_a_damaged_schedule_is_told(home: FederationHome, text: str) -> None:
    (home.root / "schedule.yaml").write_text(text)
    with pytest.raises(ConfigError, match="schedule"):
        read_schedule(home)


def test_a_schedule_of_an_unknown_configuration_is_refused(home: FederationHome) -> None:
    schedule = make_schedule(config="brest_cancer", cron="0 3 * * 1", since=at("2026-01-01"))

    with pytest.raises(ConfigError, match="breast_cancer"):
        write_schedule(home, schedule)


def test_the_clock_names_the_spans_of_a_run() -> None:
    config = load_config("breast_cancer", [f"schema.time={json.dumps(TIME)}", "spans.last=2"])

    assert with_spans(config, dt.date(2026, 5, 4)).run_spans == ("2026-03", "2026-04")
    until = config.model_copy(update={"spans": config.spans.model_copy(update={"until": "2025-12"})})
    assert with_spans(until, dt.date(2026, 5, 4)).run_spans == ("2025-11", "2025-12")
    named = with_spans(config, dt.date(2026, 5, 4))
    assert with_spans(named, dt.date(2027, 1, 1)) == named


def test_the_number_of_spans_must_be_said() -> None:
    config = load_config("breast_cancer", [f"schema.time={json.dumps(TIME)}"])

    with pytest.raises(ConfigError, match=r"spans\.last"):
        with_spans(config, dt.date(2026, 5, 4))


def test_without_dates_there_are_no_new_spans() -> None:
    config = load_config("breast_cancer")

    assert with_spans(config, dt.date(2026, 5, 4)) == config
    assert num_new_spans(config, config.run_spans, dt.date(2026, 5, 4)) == 0
