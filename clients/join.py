"""`fedpipe client join`: the node itself, until it is stopped."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Mapping, Sequence

from clients.gate import Gate
from clients.home import NodeHome
from clients.metrics import NodeMetrics
from fedpipe.data.readers import find_files
from fedpipe.federation import pki
from fedpipe.federation.logs import log_to
from fedpipe.federation.monitoring import monitored
from fedpipe.ledger import utc_now
from fedpipe.memory import pool_nothing

logger = logging.getLogger("fedpipe.node")


def join(
    home: NodeHome, sources: Sequence[str], *, names: Mapping[str, str] | None = None, metrics: str = ""
) -> None:
    """Serves requests about the records in `sources` until SIGTERM or an interrupt.

    `names` are what the sources call columns, by the canonical name.

    With `metrics`, a loopback address, it shows its owner figures and its health there.

    Raises:
      ConfigError: the site policy cannot be read, or the address is taken or not on loopback.
      DataError: a source does not exist.
      WorkspaceError: the node runs already.
    """
    from fedpipe.federation.flower_connection import Link
    from fedpipe.federation.flower_node import ANSWERED, Listener, SuperNode

    from clients.app import app  # isort: skip

    os.umask(0o077)
    pool_nothing()
    with home.join_lock():
        log_to(home.log_path)
        policy, membership = home.policy, home.membership
        find_files(sources)
        gate, figures = Gate(home, sources, names), NodeMetrics(home)

        def tell(state: str) -> None:
            logger.info("The node is %s." if " " not in state else "%s.", state)
            figures.on_state(state)
            try:
                home.tell(state, utc_now())
            except OSError:
                logger.exception("The state of the node cannot be kept.")  # a full disk must not end it

        def count(run_id: str, step: str, outcome: str) -> None:
            figures.on_answer(step, outcome)
            if step == "claim" and outcome != ANSWERED:
                gate.on_claim_refused(run_id)

        node = SuperNode(
            Link(
                address=membership.address,
                ca_certificate=(home.root / "ca.pem").read_bytes(),
                key=pki.read_private_key(home.key_path),
            ),
            app,
            decide=gate.decide,
            may_work=lambda: not home.is_paused,
            listener=Listener(on_state=tell, on_contact=figures.on_contact, on_answer=count),
            max_message_bytes=policy.max_message_bytes,
        )
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda _number, _frame: node.stop())
        logger.info("Joining.", extra={"federation": membership.federation, "client": membership.client})
        with monitored(
            metrics, figures.collectors, is_healthy=lambda: True, is_ready=lambda: figures.is_ready
        ):
            node.run()
