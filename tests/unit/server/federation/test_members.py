import datetime as dt

import pytest

from fedpipe.errors import FederationError, WorkspaceError
from fedpipe.federation import pki
from fedpipe.federation.enrolment import JoinRequest, make_request
from server.federation.home import FederationHome
from server.federation.members import MEMBERS, admit, invite, read_members, remove

VALID = dt.timedelta(days=14)
LEDGER_KEY = "A" * 43 + "="


def enrol(home: FederationHome, name: str, now: dt.datetime) -> JoinRequest:
    return make_request(
        invite(home, name, valid=VALID, now=now), pki.make_key(), ledger_key=LEDGER_KEY, declared_size=300
    )


def test_an_admitted_node_is_a_member_with_its_key(home: FederationHome, now: dt.datetime) -> None:
    request = enrol(home, "first-bank", now)
    admit(home, request, now=now)

    member = read_members(home).present()["first-bank"]
    assert (member.public_key, member.declared_size) == (request.public_key, 300)
    assert member.ledger_key == LEDGER_KEY
    assert not read_members(home).invited


def test_the_code_is_not_kept(home: FederationHome, now: dt.datetime) -> None:
    code = invite(home, "first-bank", valid=VALID, now=now).code

    assert code not in (home.root / MEMBERS).read_text()


def test_an_invitation_is_good_for_one_key(home: FederationHome, now: dt.datetime) -> None:
    invitation = invite(home, "first-bank", valid=VALID, now=now)
    admit(home, make_request(invitation, pki.make_key(), ledger_key=LEDGER_KEY), now=now)

    with pytest.raises(FederationError, match="open invitation"):
        admit(home, make_request(invitation, pki.make_key(), ledger_key=LEDGER_KEY), now=now)


def test_admitting_the_same_request_again_changes_nothing(home: FederationHome, now: dt.datetime) -> None:
    request = enrol(home, "first-bank", now)
    first = admit(home, request, now=now)

    assert admit(home, request, now=now + dt.timedelta(hours=1)) == first


def test_a_later_invitation_voids_the_earlier_one(home: FederationHome, now: dt.datetime) -> None:
    old = enrol(home, "first-bank", now)
    invite(home, "first-bank", valid=VALID, now=now)

    with pytest.raises(FederationError, match="an older one"):
        admit(home, old, now=now)


def test_an_invitation_expires(home: FederationHome, now: dt.datetime) -> None:
    request = enrol(home, "first-bank", now)

    with pytest.raises(FederationError, match="still valid"):
        admit(home, request, now=now + VALID + dt.timedelta(seconds=1))


def test_nobody_joins_under_the_name_of_a_member(home: FederationHome, now: dt.datetime) -> None:
    admit(home, enrol(home, "first-bank", now), now=now)

    with pytest.raises(FederationError, match="no member"):
        invite(home, "first-bank", valid=VALID, now=now)


def test_a_removed_key_never_comes_back(home: FederationHome, now: dt.datetime) -> None:
    key = pki.make_key()
    admit(
        home,
        make_request(invite(home, "first-bank", valid=VALID, now=now), key, ledger_key=LEDGER_KEY),
        now=now,
    )
    remove(home, "first-bank")
    assert not read_members(home).present()

    again = make_request(invite(home, "first-bank", valid=VALID, now=now), key, ledger_key=LEDGER_KEY)
    with pytest.raises(FederationError, match="a new key"):
        admit(home, again, now=now)
    admit(home, enrol(home, "first-bank", now), now=now)
    assert "first-bank" in read_members(home).present()


def test_an_invitation_can_be_withdrawn(home: FederationHome, now: dt.datetime) -> None:
    request = enrol(home, "first-bank", now)
    remove(home, "first-bank")

    with pytest.raises(FederationError, match="open invitation"):
        admit(home, request, now=now)


def test_an_unknown_name_is_told_with_the_nearest(home: FederationHome, now: dt.datetime) -> None:
    invite(home, "first-bank", valid=VALID, now=now)

    with pytest.raises(FederationError, match="Did you mean first-bank"):
        remove(home, "frist-bank")


def test_a_damaged_list_admits_nobody(home: FederationHome) -> None:
    (home.root / MEMBERS).write_text('{"members": 3}')

    with pytest.raises(WorkspaceError, match="damaged"):
        read_members(home)
