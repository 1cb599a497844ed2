"""Where a node keeps its key, policy, ledger, log and what it knows of runs. Closed to other users."""

from __future__ import annotations

import datetime as dt
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from clients.site_policy import SitePolicy, read_policy, write_policy
from fedpipe.errors import ConfigError, LedgerError, WorkspaceError
from fedpipe.federation import pki
from fedpipe.federation.enrolment import ClientName, FederationName, Invitation, JoinRequest, make_request
from fedpipe.files import make_private_directory, write_text

DEFAULT_PARENT = Path("~/.fedpipe")
MEMBERSHIP = "membership.json"
RECORD_KEY_BYTES = 32


class _File(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Membership(_File):
    """Who this node is, and in which federation.

    `store` is the directory of the ledger and of the key that divides records: one for each data store,
    whatever the number of federations, so that they share one budget.
    """

    federation: FederationName
    client: ClientName
    address: str
    store: str = Field(repr=False)


class NodeStatus(_File):
    """What a joined node says of itself, for `fedpipe client status`."""

    state: str
    since: dt.datetime
    pid: int


class RunNote(_File):
    """What this node knows of a run: it asked, and it may have been approved."""

    run_id: str
    epsilon: float | None = None
    approved: bool = False
    claimed: bool = False


class NodeHome:
    """Paths of one membership.

    Raises:
      ConfigError: there is none at `root`, or others can look into it.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.expanduser().absolute()
        if not (self.root / MEMBERSHIP).is_file():
            raise ConfigError(
                f"Expected a node in {root}, found none: make one with fedpipe client enroll INVITATION, or "
                "name its directory with --home."
            )
        if self.root.stat().st_mode & 0o077:
            raise ConfigError(f"Expected {root} closed to other users, found it open: chmod 700 {root}.")

    @classmethod
    def create(
        cls, root: Path, invitation: Invitation, *, store: Path | None, policy: SitePolicy
    ) -> tuple[NodeHome, JoinRequest]:
        """Returns a new home, with keys made here, and the request to be admitted.

        The same invitation again gives the same key and another copy of the request.
        """
        root = root.expanduser().absolute()
        make_private_directory(root)
        root.chmod(0o700)
        _check_same(root, invitation)
        key = pki.hold_private_key(root / "node-key.pem")
        write_text(root / "ca.pem", invitation.ca_certificate)
        place = (store or root).expanduser().absolute()
        make_private_directory(place)
        _hold_record_key(place / "record.key")
        if not (root / "policy.yaml").exists():
            write_policy(root / "policy.yaml", policy)
        declared = read_policy(root / "policy.yaml").declared_size
        membership = Membership(
            federation=invitation.federation,
            client=invitation.client,
            address=invitation.address,
            store=str(place),
        )
        write_text(root / MEMBERSHIP, membership.model_dump_json(indent=2) + "\n")  # last of all
        home = cls(root)
        return home, make_request(
            invitation,
            key,
            ledger_key=home.make_ledger(),
            declared_size=declared if isinstance(declared, int) else None,
        )

    @property
    def membership(self) -> Membership:
        """Who this node is."""
        try:
            return Membership.model_validate_json((self.root / MEMBERSHIP).read_bytes())
        except ValidationError as error:
            raise ConfigError(
                f"Expected a membership in {self.root}, found it damaged: enroll again."
            ) from error

    @property
    def policy_path(self) -> Path:
        """The site policy, for its owner to edit."""
        return self.root / "policy.yaml"

    @property
    def policy(self) -> SitePolicy:
        """The site policy as it is now."""
        return read_policy(self.policy_path)

    @property
    def key_path(self) -> Path:
        """The key by which the SuperLink knows this node."""
        return self.root / "node-key.pem"

    @property
    def record_key_path(self) -> Path:
        """The key behind splits and commitments; it belongs to the data store."""
        return Path(self.membership.store) / "record.key"

    @property
    def ledger_path(self) -> Path:
        """The ledger of the data store."""
        return Path(self.membership.store) / "ledger.sqlite"

    def make_ledger(self) -> str:
        """Makes the ledger of the data store, unless there is one; returns the public half of its key.

        Raises:
          LedgerError: it cannot be used.
        """
        from fedpipe.ledger import Ledger  # slow, and only enrolment needs it

        with Ledger(self.ledger_path) as ledger:
            return ledger.key.public

    def check_ledger(self) -> None:
        """Makes sure that the ledger which was made at enrolment is still there.

        Raises:
          LedgerError: it is gone. A new one in its place would forget what was spent.
        """
        if not self.ledger_path.is_file():
            raise LedgerError(
                f"Expected this node's ledger at {self.ledger_path}, found none: restore it there. For a "
                f"directory that was moved, correct 'store' in {self.root / MEMBERSHIP}."
            )

    @property
    def log_path(self) -> Path:
        """One JSON object a line, for the owner's eyes."""
        return self.root / "log.jsonl"

    @property
    def is_paused(self) -> bool:
        """Whether the owner has paused the node."""
        return (self.root / "paused").exists()

    def set_paused(self, paused: bool) -> None:
        """Pauses the node, or lets it go on."""
        if paused:
            write_text(self.root / "paused", "")
        else:
            (self.root / "paused").unlink(missing_ok=True)

    def listing_path(self, run_id: str) -> Path:
        """Returns where the list of a run's files is kept."""
        return self.root / "runs" / f"{run_id}.sources"

    def note(self, run_id: str) -> RunNote:
        """Returns what is known of a run."""
        try:
            return RunNote.model_validate_json(self._note_path(run_id).read_bytes())
        except (FileNotFoundError, ValidationError):
            return RunNote(run_id=run_id)

    def keep_note(self, note: RunNote) -> None:
        """Keeps what is known of a run."""
        write_text(self._note_path(note.run_id), note.model_dump_json() + "\n")

    def forget_claim(self, run_id: str) -> None:
        """Forgets that a run claimed anything; an approval stays."""
        if self.note(run_id).approved:
            self.keep_note(RunNote(run_id=run_id, approved=True))
        else:
            self._note_path(run_id).unlink(missing_ok=True)

    def forget_unclaimed(self, run_id: str) -> None:
        """Forgets a run that is over and claimed nothing: nobody needs to approve it any more."""
        if not self.note(run_id).claimed:
            self._note_path(run_id).unlink(missing_ok=True)

    def notes(self) -> list[RunNote]:
        """Returns all runs that asked, by name."""
        return [self.note(path.stem) for path in sorted((self.root / "runs").glob("*.json"))]

    def _note_path(self, run_id: str) -> Path:
        return self.root / "runs" / f"{run_id}.json"

    def tell(self, state: str, now: dt.datetime) -> None:
        """Keeps the state of the running node."""
        status = NodeStatus(state=state, since=now, pid=os.getpid())
        write_text(self.root / "status.json", status.model_dump_json() + "\n")

    def status(self) -> NodeStatus | None:
        """Returns the state of the node, None if it does not run."""
        if not self._is_joined():
            return None
        try:
            return NodeStatus.model_validate_json((self.root / "status.json").read_bytes())
        except (FileNotFoundError, ValidationError):
            return None

    def _is_joined(self) -> bool:
        try:
            with self.join_lock():
                return False
        except WorkspaceError:
            return True

    @contextmanager
    def join_lock(self) -> Iterator[None]:
        """Makes sure that one process is this node."""
        lock = FileLock(self.root / "join.lock", mode=0o600)
        try:
            lock.acquire(blocking=False)
        except Timeout as error:
            raise WorkspaceError(
                f"Expected the node in {self.root} to be stopped, found it running: fedpipe client status."
            ) from error
        try:
            yield
        finally:
            lock.release()

    def leave(self) -> None:
        """Forgets the membership and its key. Ledger and record key stay: what was spent stays spent."""
        with self.join_lock():
            for name in (MEMBERSHIP, "node-key.pem", "ca.pem", "status.json", "paused"):
                (self.root / name).unlink(missing_ok=True)


def _check_same(root: Path, invitation: Invitation) -> None:
    if not (root / MEMBERSHIP).exists():
        return
    known = NodeHome(root).membership
    if (known.federation, known.client) != (invitation.federation, invitation.client):
        raise ConfigError(
            f"Expected a new directory for {invitation.client} in {invitation.federation}, found {root} "
            f"taken by {known.client} in {known.federation}: choose another --home."
        )


def _hold_record_key(path: Path) -> None:
    if not path.exists():
        secret = secrets.token_hex(RECORD_KEY_BYTES)
        write_text(path, secret + "\n")


def find_home(home: Path | None) -> Path:
    """Returns the directory to use: `home`, or the only one below ~/.fedpipe.

    Raises:
      ConfigError: there is none, or more than one.
    """
    if home is not None:
        return home
    found = sorted(path.parent for path in DEFAULT_PARENT.expanduser().glob(f"*/{MEMBERSHIP}"))
    if len(found) != 1:
        raise ConfigError(
            f"Expected one node below {DEFAULT_PARENT}, found {len(found)}: name its directory with --home."
        )
    return found[0]
