"""Decides on each request by the owner's site policy, as it is at that moment."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence

from clients.handlers import RELEASES
from clients.home import NodeHome
from clients.models import forget_models, is_large
from clients.policy import NodePolicy
from clients.records import forget_records
from clients.sources import hold_listing
from fedpipe.errors import ConfigError, DataError, FedpipeError, LedgerError
from fedpipe.federation import Refusal, Request
from fedpipe.federation.messages import ABSENT
from fedpipe.federation.terms import RunTerms
from fedpipe.ledger import Ledger

logger = logging.getLogger("fedpipe.node")


class Gate:
    """Stands before the ClientApp: a request passes with the node's records and ledger, or not at all."""

    def __init__(
        self, home: NodeHome, sources: Sequence[str], names: Mapping[str, str] | None = None
    ) -> None:
        """Answers from `sources`; `names` are what they call columns, by the canonical name."""
        self._home, self._sources, self._names = home, tuple(sources), dict(names or {})
        self._client = home.membership.client
        self._run_id = ""
        self._is_large = False  # the model of that run
        self._counted = ""  # the run that the claim before the ClientApp is the first to count for

    def decide(self, request: Request) -> Refusal | Mapping[str, str]:
        """Returns the node's configuration for `request`, or why it is refused.

        A refusal tells the operator no more than the policy's public values; the rest is for the log.
        """
        try:
            refusal = self._check(request)
        except DataError as error:
            logger.error("The records cannot be read. %s", error)
            refusal = self._refuse("its records cannot be read; its own log says why", "")
        except ConfigError as error:
            logger.error("The site policy cannot be read. %s", error)
            refusal = self._refuse("its site policy cannot be read; its own log says why", "ConfigError")
        except FedpipeError as error:
            refusal = self._refuse(str(error), type(error).__name__)
        told: dict[str, object] = {"run": request.run_id, "step": request.step}
        if request.server_round:
            told["round"] = request.server_round
        if refusal is not None:
            logger.warning("Refused: %s", refusal.reason, extra=told)
            return refusal
        logger.info("Answering.", extra=told)
        self._turn_to(request)
        return self._node_config(request)

    def _check(self, request: Request) -> Refusal | None:
        try:
            self._home.check_ledger()
        except LedgerError as error:
            logger.error("%s", error)
            return self._refuse("its ledger is not there; its own log says more", "LedgerError")
        listing = self._home.listing_path(request.run_id)
        if request.step == "finish":
            listing.unlink(missing_ok=True)  # nothing more is read
            self._home.forget_unclaimed(request.run_id)
            return None
        policy, note = self._home.policy, self._home.note(request.run_id)
        if policy.manual_approval and not note.approved:
            self._home.keep_note(note)
            # It counts as away, so that the run waits for it as long as it waits for anybody.
            return self._refuse("it waits for its owner: fedpipe client approve RUN", ABSENT)
        if request.step in RELEASES:
            NodePolicy.of_site(policy).check_steps([request.step])
        if request.step == "claim":
            self._count(request, policy.total_epsilon)
        if request.step == "ingest" and not note.claimed:
            listing.unlink(missing_ok=True)  # nothing was released: what her owner has mended since counts
        if request.step in ("ingest", "claim"):
            hold_listing(listing, self._sources)
        return None

    def _turn_to(self, request: Request) -> None:
        """Keeps one run's records and large model in memory at a time: a year's runs would fill it."""
        if request.run_id != self._run_id or request.step == "finish":
            if self._is_large:
                forget_models()
            forget_records()
            self._is_large = False
        self._run_id = request.run_id
        self._is_large = self._is_large or is_large(request)

    def _count(self, request: Request, total: float | None) -> None:
        """Notes what a run claims in all. A claim counts for ever, whether or not it was used up.

        Raises:
          LedgerError: all runs together would claim more than the owner allows.
        """
        try:
            plan = RunTerms.model_validate(request.values["terms"]).plan
        except (KeyError, ValueError):
            return  # the ClientApp says what is wrong with it
        epsilon = plan.total_epsilon() if plan.private else 0.0
        others = sum(each.epsilon or 0.0 for each in self._home.notes() if each.run_id != request.run_id)
        if total is not None and others + epsilon > total:
            raise LedgerError(
                f"Expected all runs to claim epsilon = {total:g} at most, found {others + epsilon:.3g} with "
                "this one: refused by policy."
            )
        note = self._home.note(request.run_id)
        self._counted = "" if note.claimed else request.run_id
        self._home.keep_note(note.model_copy(update={"epsilon": epsilon, "claimed": True}))

    def on_claim_refused(self, run_id: str) -> None:
        """Takes a claim that the ledger did not accept off the total: it reserved nothing, and never will."""
        if run_id != self._counted:
            return  # an earlier request of this run was counted, and may have been accepted
        try:
            self._home.check_ledger()  # to open one that is gone would begin it anew
            with Ledger(self._home.ledger_path) as ledger:
                stands = ledger.has_claim(run_id, self._client)
        except LedgerError as error:
            logger.error("A refused claim stays counted. %s", error)
            return
        if not stands:
            self._home.forget_claim(run_id)

    def _refuse(self, reason: str, kind: str) -> Refusal:
        return Refusal(client=self._client, reason=reason, kind=kind)

    def _node_config(self, request: Request) -> dict[str, str]:
        return {
            "client": self._client,
            "source": str(self._home.listing_path(request.run_id)),
            "key": str(self._home.record_key_path),
            "ledger": str(self._home.ledger_path),
            "columns": json.dumps(self._names),
            "policy": NodePolicy.of_site(self._home.policy).model_dump_json(),
        }
