"""What an operator sees of a federation: members, connections, the last run, the schedule."""

from __future__ import annotations

from typing import Any

from fedpipe.errors import FederationError
from fedpipe.federation import pki
from server.federation.home import FederationHome
from server.federation.members import read_members


def list_members(home: FederationHome) -> list[dict[str, Any]]:
    """Returns a row for everybody: connected, away, invited or removed."""
    from fedpipe.federation.flower_run import list_nodes

    known = read_members(home)
    online: set[str] | None = None
    if is_up(home):
        keys = {name: member.public_key for name, member in known.present().items()}
        online = {name for name, node in list_nodes(home.socket("control"), keys).items() if node.online}
    rows = [
        {
            "client": name,
            "state": "removed" if member.removed else _state(name, online),
            "since": f"{member.admitted_at:%Y-%m-%d}",
            "declared_size": member.declared_size,
            "ledger_key": member.ledger_key,
        }
        for name, member in sorted(known.members.items())
    ]
    rows += [
        {
            "client": name,
            "state": "invited",
            "since": f"until {invited.expires_at:%Y-%m-%d}",
            "declared_size": None,
            "ledger_key": None,
        }
        for name, invited in sorted(known.invited.items())
    ]
    return rows


def _state(name: str, online: set[str] | None) -> str:
    if online is None:
        return "unknown: the federation is down"
    return "connected" if name in online else "away"


def is_up(home: FederationHome) -> bool:
    """Returns whether `up` runs."""
    try:
        home.check_up()
    except FederationError:
        return False
    return True


def describe(home: FederationHome) -> dict[str, Any]:
    """Returns the state of the federation, by name."""
    from server.federation.runs import last_run, read_summary
    from server.federation.schedule import read_schedule

    rows, settings = list_members(home), home.settings
    last, schedule = last_run(home.workspace()), read_schedule(home)
    expires = pki.expires_at(pki.read_certificate(home.certificates[1].decode()))
    summary = read_summary(home.workspace(), last[0]) if last else None
    return {
        "federation": settings.name,
        "state": "up" if is_up(home) else "down",
        "address": settings.address,
        "members": sum(row["state"] not in ("invited", "removed") for row in rows),
        "connected": sum(row["state"] == "connected" for row in rows),
        "certificate": f"valid until {expires:%Y-%m-%d}",
        "last run": last[0] if last else None,
        "it is": None if last is None else "complete" if summary else "not complete",
        "model": summary.model_version if summary else None,
        "schedule": None if schedule is None else schedule.cron or f"{schedule.new_spans} new spans",
    }
