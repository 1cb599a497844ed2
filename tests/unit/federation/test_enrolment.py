import base64
import datetime as dt
import hashlib
import hmac

import pytest

from fedpipe.errors import ConfigError, FederationError
from fedpipe.federation import pki
from fedpipe.federation.enrolment import (
    MAX_FILE_BYTES,
    Invitation,
    JoinRequest,
    check_request,
    code_digest,
    make_code,
    make_request,
    parse_file,
    split_address,
)

LEDGER_KEY = "A" * 43 + "="


def an_invitation(code: str = "a-code-of-enough-letters") -> Invitation:
    return Invitation(
        federation="demo",
        client="first-bank",
        address="fed.example.org:9092",
        ca_certificate="",
        code=code,
        expires_at=dt.datetime(2026, 5, 4, tzinfo=dt.timezone.utc),
    )


def test_request_made_with_the_invitation_is_accepted() -> None:
    invitation = an_invitation()
    request = make_request(invitation, pki.make_key(), ledger_key=LEDGER_KEY, declared_size=500)

    check_request(JoinRequest.model_validate_json(request.model_dump_json()), code_digest(invitation.code))


def test_request_holds_neither_code_nor_private_key() -> None:
    invitation, key = an_invitation(), pki.make_key()
    text = make_request(invitation, key, ledger_key=LEDGER_KEY).model_dump_json()

    assert invitation.code not in text
    assert "PRIVATE" not in text
    assert format(key.private_numbers().private_value, "x") not in text


def test_request_made_with_another_code_is_refused() -> None:
    request = make_request(an_invitation("some-other-code-altogether"), pki.make_key(), ledger_key=LEDGER_KEY)

    with pytest.raises(FederationError, match="made with the invitation"):
        check_request(request, code_digest(an_invitation().code))


@pytest.mark.parametrize(
    "change",
    [
        {"client": "second-bank"},
        {"declared_size": 7},
        {"federation": "other"},
        {"ledger_key": "B" * 43 + "="},
    ],
)
def test_request_changed_on_the_way_is_refused(change: dict[str, object]) -> None:
    invitation = an_invitation()
    request = make_request(invitation, pki.make_key(), ledger_key=LEDGER_KEY).model_copy(update=change)

    with pytest.raises(FederationError):
        check_request(request, code_digest(invitation.code))


def test_whoever_knows_the_code_cannot_enrol_the_key_of_another() -> None:
    invitation, own = an_invitation(), pki.make_key()
    unsigned = make_request(invitation, own, ledger_key=LEDGER_KEY).model_copy(
        update={"public_key": pki.public_text(pki.make_key().public_key()), "proof": "", "signature": ""}
    )
    digest = code_digest(invitation.code)
    proof = hmac.new(digest.encode(), unsigned.statement(), hashlib.sha256).hexdigest()
    signature = base64.b64encode(pki.sign(own, unsigned.statement())).decode()

    with pytest.raises(FederationError, match="signed by the key"):
        check_request(unsigned.model_copy(update={"proof": proof, "signature": signature}), digest)


def test_codes_differ_and_are_not_shown() -> None:
    assert make_code() != make_code()
    assert "a-code-of-enough-letters" not in repr(an_invitation())


@pytest.mark.parametrize("data", [b"", b"{}", b'{"kind": "fedpipe invitation"}', b"x" * (MAX_FILE_BYTES + 1)])
def test_other_files_are_refused(data: bytes) -> None:
    with pytest.raises(FederationError):
        parse_file(data, JoinRequest, "a request")


@pytest.mark.parametrize(
    "address", ["", "host", "host:", "host:0", "host:99999", "a b:1", "-x:1", "http://a:1"]
)
def test_other_addresses_are_refused(address: str) -> None:
    with pytest.raises(ConfigError, match="Expected an address"):
        split_address(address)
