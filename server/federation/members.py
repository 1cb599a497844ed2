"""Who is invited and who is a member. This file is the authority; Flower's list of nodes follows it."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock
from pydantic import BaseModel, ConfigDict, ValidationError

from fedpipe.errors import FederationError, WorkspaceError, nearest
from fedpipe.federation.enrolment import Invitation, JoinRequest, check_request, code_digest, make_code
from fedpipe.files import write_text
from server.federation.home import FederationHome

MEMBERS = "members.json"


class _Stored(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Invited(_Stored):
    """An invitation that nobody has used yet; the code itself is not kept."""

    code_digest: str
    expires_at: dt.datetime


class Member(_Stored):
    """A node that may connect, or could until it was `removed`. Its key and its ledger's are public."""

    public_key: str
    ledger_key: str
    admitted_at: dt.datetime
    declared_size: int | None = None
    removed: bool = False


class Members(_Stored):
    """Everybody, by client name."""

    version: int = 1
    invited: dict[str, Invited] = {}
    members: dict[str, Member] = {}
    former_keys: tuple[str, ...] = ()

    def present(self) -> dict[str, Member]:
        """Those that may connect."""
        return {name: member for name, member in self.members.items() if not member.removed}


def read_members(home: FederationHome) -> Members:
    """Returns the members of a federation.

    Raises:
      WorkspaceError: the file is damaged: nobody is admitted on its word.
    """
    path = home.root / MEMBERS
    try:
        return Members.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return Members()
    except ValidationError as error:
        raise WorkspaceError(f"Expected the members in {path}, found it damaged: restore it.") from error


def invite(home: FederationHome, name: str, *, valid: dt.timedelta, now: dt.datetime) -> Invitation:
    """Returns a new invitation for `name`; an earlier one that was not used is void from now on."""
    settings = home.settings
    invitation = Invitation(
        federation=settings.name,
        client=name,
        address=settings.address,
        ca_certificate=home.ca_certificate,
        code=make_code(),
        expires_at=now + valid,
    )
    with _editing(home) as (members, save):
        if name in members.present():
            raise FederationError(
                f"Expected a name that is no member, found {name}: choose another, or remove that one first."
            )
        invited = Invited(code_digest=code_digest(invitation.code), expires_at=invitation.expires_at)
        save(members.model_copy(update={"invited": members.invited | {name: invited}}))
    return invitation


def admit(home: FederationHome, request: JoinRequest, *, now: dt.datetime) -> Member:
    """Makes the maker of `request` a member, and uses up its invitation.

    Raises:
      FederationError: there is no such invitation, it has expired, or the proof does not hold.
    """
    member = Member(
        public_key=request.public_key,
        ledger_key=request.ledger_key,
        admitted_at=now,
        declared_size=request.declared_size,
    )
    with _editing(home) as (members, save):
        known = members.members.get(request.client)
        if known is not None and not known.removed and known.public_key == request.public_key:
            return known  # the same request again
        _check_invited(home, members, request, now)
        before = () if known is None else (known.public_key,)
        save(
            Members(
                invited={name: each for name, each in members.invited.items() if name != request.client},
                members=members.members | {request.client: member},
                former_keys=(*members.former_keys, *before),
            )
        )
    return member


def _check_invited(home: FederationHome, members: Members, request: JoinRequest, now: dt.datetime) -> None:
    invited = members.invited.get(request.client)
    if request.federation != home.settings.name or invited is None:
        raise FederationError(
            f"Expected a request that answers an open invitation of {home.settings.name}, found one of "
            f"{request.client} for {request.federation}: was it admitted before? Else invite it again."
        )
    if now > invited.expires_at:
        raise FederationError(
            f"Expected an invitation that is still valid, found one that ended "
            f"{invited.expires_at:%Y-%m-%d}: invite {request.client} again."
        )
    check_request(request, invited.code_digest)
    used = {each.public_key for each in members.members.values()} | set(members.former_keys)
    if request.public_key in used:
        raise FederationError("Expected a new key, found one of a member, or of a former one: enroll anew.")


def remove(home: FederationHome, name: str) -> None:
    """Takes a member or an invitation off the list: its key is refused from now on.

    Raises:
      FederationError: there is nobody of that name.
    """
    with _editing(home) as (members, save):
        if name not in members.present() and name not in members.invited:
            names = [*members.present(), *members.invited]
            hint = nearest(name, names) if names else "There is none."
            raise FederationError(f"Expected the name of a member, found {name!r}. {hint}")
        found = members.members
        if name in found:
            found = found | {name: found[name].model_copy(update={"removed": True})}
        invited = {each: value for each, value in members.invited.items() if each != name}
        save(members.model_copy(update={"members": found, "invited": invited}))


class _Save:
    def __init__(self, path: Path) -> None:
        self._path = path

    def __call__(self, members: Members) -> None:
        write_text(self._path, members.model_dump_json(indent=2) + "\n")


@contextmanager
def _editing(home: FederationHome) -> Iterator[tuple[Members, _Save]]:
    """Keeps other commands from changing the members meanwhile."""
    with FileLock(home.root / "members.lock", mode=0o600):
        yield read_members(home), _Save(home.root / MEMBERS)
