"""Who can see what, in words that the model card, `status` and the documentation share."""

from __future__ import annotations

from server.encrypted.options import UpOptions

_PARTIES = (
    "A row is split into three random shares; each party holds two. One party alone learns nothing of rows, "
    "weights or outputs; any two that collude learn everything. The parties are trusted to follow the "
    "protocol (ABY3, semi-honest): one that lies can make answers wrong, and is not found out for certain."
)
_COORDINATOR = (
    "The coordinator moves no shares, but it directs the parties' TensorFlow, which obeys whoever reaches "
    "it: whoever controls the coordinator's process can order the shares of all three parties and read "
    "rows and weights. The front end sees who asks, how often and how many rows, and no share; but it names "
    "the parties to clients, and starts the coordinator: whoever controls it can do as much."
)
_ONE_OPERATOR = (
    "HERE ONE OPERATOR RUNS ALL THREE PARTIES AND THE COORDINATOR: he can join the shares and see every row. "
    "Until parties are run by others, this protects rows in transit and from the other processes only."
)
_ISOLATED = (
    "The parties' TensorFlow ports lie in a network namespace of their own, which other users, containers "
    "and hosts cannot reach; root on this machine can."
)
_UNISOLATED = (
    "THE PARTIES ARE NOT ISOLATED: their TensorFlow ports listen on every interface and ask for no name. "
    "Every user of this machine, and everybody who reaches it, can read rows and weights."
)
_RAW = "THIS FRONT END ALSO TAKES ROWS IN THE CLEAR, at /v1/predict: those it sees."
_ANSWERS = "Answers leak the model: enough of them rebuild it. Rates per key bound this, nothing prevents it."


def threat_model(options: UpOptions) -> str:
    """Returns the text for a service with these options."""
    parts = [
        _ONE_OPERATOR if options.sees_rows else "",
        _PARTIES,
        _COORDINATOR,
        _UNISOLATED if options.unisolated else _ISOLATED,
        _RAW if options.accept_raw_rows else "",
        _ANSWERS,
    ]
    return " ".join(part for part in parts if part)
