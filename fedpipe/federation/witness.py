"""Heads of ledgers that travel beside messages, so that no ledger can forget what it once showed.

Each side keeps the heads that the other shows as entries of its own chain, which its next head signs:
with that, each has countersigned the other's. A node that is shown a head of its own which its chain
no longer holds was restored from an older backup, and stops (`Ledger.meet`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fedpipe.errors import LedgerError
from fedpipe.federation.messages import Heads, Refusal, Reply
from fedpipe.ledger import Ledger, SignedHead


@dataclass(frozen=True, kw_only=True)
class _Shown:
    """A head, and whose reply it came with."""

    client: str
    head: SignedHead


class Witness:
    """The coordinator's side: shows each client the newest head of its own that it has ever shown here.

    `ledger` is the coordinator's own. It holds no block and no budget, only what others have shown.
    Clients that share a ledger, as in a simulation, are witnessed together, by the newest of their heads.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._own = ledger.head()
        self._names: dict[str, str] = {}  # ledger -> the name under which it is kept
        self._newest: dict[str, SignedHead] = {}
        self._ledger_of: dict[str, str] = {}  # client -> its ledger
        for name, head in ledger.all_witnessed().items():
            self._remember(name, head)

    def heads_for(self, client: str | None) -> Heads:
        """Returns what to show to `client`: nothing of its own as long as nobody knows who it is."""
        known = self._ledger_of.get(client) if client is not None else None
        return Heads(sender=self._own, receiver=self._newest[known] if known else None)

    def keep(self, replies: Sequence[Reply]) -> tuple[list[Reply], list[Refusal]]:
        """Returns the replies whose heads agree with all that was shown before, and the others as refusals.

        What agrees is durable, with the coordinator's own head over it, before it is returned.

        Raises:
          LedgerError: a reply shows a head that the coordinator's own ledger has forgotten.
        """
        refused: dict[str, str] = {}
        shown: dict[str, list[_Shown]] = {}
        for reply in replies:
            try:
                head = self._checked(reply)
            except LedgerError as error:
                refused[reply.client] = str(error)
                continue
            if head is not None:
                shown.setdefault(head.ledger, []).append(_Shown(client=reply.client, head=head))
        self._meet([reply.heads.receiver for reply in replies])
        for several in shown.values():
            refused |= self._keep_newest(several)
        self._own = self._ledger.head()
        kept = [reply for reply in replies if reply.client not in refused]
        return kept, [
            Refusal(client=client, reason=reason, kind="LedgerError") for client, reason in refused.items()
        ]

    def _meet(self, heads: Iterable[SignedHead | None]) -> None:
        own = {head.digest: head for head in heads if head is not None and head.ledger == self._own.ledger}
        for head in own.values():
            if head.is_genuine:
                self._ledger.meet(head)

    def _checked(self, reply: Reply) -> SignedHead | None:
        """Returns the head that a reply shows.

        Raises:
          LedgerError: it is forged, missing though there was one before, or another ledger's.
        """
        head, known = reply.heads.sender, self._ledger_of.get(reply.client)
        if head is None and known is None:
            return None
        if head is None or not head.is_genuine:
            raise LedgerError(f"Expected a head that the ledger of {reply.client} signed, found none.")
        if known not in (None, head.ledger):
            raise LedgerError(
                f"Expected the ledger that {reply.client} has shown before, found another, which forgets "
                "what was spent: its owner must restore the first."
            )
        return head

    def _keep_newest(self, several: Iterable[_Shown]) -> dict[str, str]:
        """Keeps the newest of one ledger's heads; returns whom to refuse, with the reason."""
        newest = max(several, key=lambda each: each.head.position)
        try:
            self._ledger.witness(self._names.get(newest.head.ledger, newest.client), newest.head)
        except LedgerError as error:
            return {each.client: str(error) for each in several}
        for each in several:
            self._ledger_of[each.client] = each.head.ledger
        self._remember(self._names.get(newest.head.ledger, newest.client), newest.head)
        return {}

    def _remember(self, name: str, head: SignedHead) -> None:
        before = self._newest.get(head.ledger)
        if before is None or before.position < head.position:
            self._newest[head.ledger] = head
        self._names[head.ledger] = name
        self._ledger_of[name] = head.ledger


def exchange_heads(ledger: Ledger, heads: Heads) -> None:
    """The node's side: meets the head of its own that it is shown, and keeps the coordinator's.

    Raises:
      LedgerError: the node's ledger has forgotten something, or the coordinator's has.
    """
    if heads.receiver is not None:
        ledger.meet(heads.receiver)
    if heads.sender is not None:
        ledger.witness(_coordinator(heads.sender), heads.sender)


def heads_to_show(ledger: Ledger, heads: Heads) -> Heads:
    """Returns what a node answers with: its own head, and the newest of the asker's that it has seen."""
    asker = heads.sender and ledger.witnessed(_coordinator(heads.sender))
    return Heads(sender=ledger.head(), receiver=asker)


def _coordinator(head: SignedHead) -> str:
    return f"coordinator {head.ledger}"
