import datetime as dt
from collections.abc import Callable
from pathlib import Path

import pytest

from clients.home import NodeHome, RunNote, find_home
from clients.site_policy import SitePolicy
from fedpipe.errors import ConfigError, WorkspaceError
from fedpipe.federation.enrolment import Invitation, JoinRequest, check_request, code_digest

CODE = "a-code-of-enough-letters"
Enrol = Callable[..., tuple[NodeHome, JoinRequest]]


@pytest.fixture
def enrol(make_invitation: Callable[..., Invitation]) -> Enrol:
    """Returns a home and its request; further arguments are lines of its policy."""

    def make(root: Path, *, store: Path | None = None, **policy: object) -> tuple[NodeHome, JoinRequest]:
        return NodeHome.create(root, make_invitation(), store=store, policy=SitePolicy.model_validate(policy))

    return make


def test_a_new_home_is_closed_to_others(tmp_path: Path, enrol: Enrol) -> None:
    home, _ = enrol(tmp_path / "home")

    assert home.root.stat().st_mode & 0o777 == 0o700
    assert all(not path.stat().st_mode & 0o077 for path in home.root.iterdir())


def test_its_request_is_one_that_the_operator_accepts(tmp_path: Path, enrol: Enrol) -> None:
    _, request = enrol(tmp_path / "home", declared_size=500)

    check_request(request, code_digest(CODE))
    assert request.declared_size == 500


def test_a_size_is_withheld_unless_it_is_declared(tmp_path: Path, enrol: Enrol) -> None:
    assert enrol(tmp_path / "home")[1].declared_size is None


def test_enrolling_again_keeps_key_policy_and_record_key(tmp_path: Path, enrol: Enrol) -> None:
    home, first = enrol(tmp_path / "home", min_cohort=3)
    secret = home.record_key_path.read_text()

    again, second = enrol(tmp_path / "home")

    assert second.public_key == first.public_key
    assert again.record_key_path.read_text() == secret
    assert again.policy.min_cohort == 3


def test_two_federations_share_the_ledger_of_a_store(tmp_path: Path, enrol: Enrol) -> None:
    homes = [enrol(tmp_path / name, store=tmp_path / "store")[0] for name in ("one", "two")]

    assert homes[0].ledger_path == homes[1].ledger_path
    assert homes[0].record_key_path == homes[1].record_key_path
    assert homes[0].key_path != homes[1].key_path


def test_a_home_of_another_federation_is_left_alone(
    tmp_path: Path, enrol: Enrol, make_invitation: Callable[..., Invitation]
) -> None:
    enrol(tmp_path / "home")

    with pytest.raises(ConfigError, match="choose another --home"):
        NodeHome.create(
            tmp_path / "home",
            make_invitation("other"),
            store=None,
            policy=SitePolicy.model_validate({}),
        )


def test_a_home_open_to_others_is_refused(tmp_path: Path, enrol: Enrol) -> None:
    enrol(tmp_path / "home")
    (tmp_path / "home").chmod(0o750)

    with pytest.raises(ConfigError, match="chmod 700"):
        NodeHome(tmp_path / "home")


def test_leaving_forgets_the_key_and_keeps_what_protects_records(tmp_path: Path, enrol: Enrol) -> None:
    home, _ = enrol(tmp_path / "home")
    home.ledger_path.write_text("ledger")
    home.leave()

    assert sorted(path.name for path in home.root.iterdir()) == [
        "join.lock",
        "ledger.sqlite",
        "ledger.sqlite.key",
        "policy.yaml",
        "record.key",
    ]
    with pytest.raises(ConfigError, match="fedpipe client enroll"):
        NodeHome(tmp_path / "home")


def test_a_running_node_cannot_leave_and_is_not_started_twice(tmp_path: Path, enrol: Enrol) -> None:
    home, _ = enrol(tmp_path / "home")

    with home.join_lock():
        with pytest.raises(WorkspaceError, match="found it running"):
            home.leave()
        home.tell("connected", dt.datetime(2026, 5, 4, tzinfo=dt.timezone.utc))
        found = NodeHome(tmp_path / "home").status()
    assert found is not None
    assert found.state == "connected"
    assert home.status() is None


def test_pausing_lasts_until_it_is_taken_back(tmp_path: Path, enrol: Enrol) -> None:
    home, _ = enrol(tmp_path / "home")
    home.set_paused(True)
    assert NodeHome(home.root).is_paused

    home.set_paused(False)
    assert not home.is_paused


def test_notes_of_runs_are_kept(tmp_path: Path, enrol: Enrol) -> None:
    home, _ = enrol(tmp_path / "home")
    home.keep_note(RunNote(run_id="run-1", approved=True))

    assert home.note("run-1").approved
    assert not home.note("run-2").approved
    assert [note.run_id for note in home.notes()] == ["run-1"]


def test_the_only_home_is_found(tmp_path: Path, enrol: Enrol, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(ConfigError, match="found 0"):
        find_home(None)
    enrol(tmp_path / ".fedpipe" / "demo")

    assert find_home(None) == tmp_path / ".fedpipe" / "demo"
