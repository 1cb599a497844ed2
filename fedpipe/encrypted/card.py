"""What the front end publishes and issues, checked: the model card, and tickets for single requests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from fedpipe.encrypted.members import member, members, number
from fedpipe.encrypted.shares import FRACTIONAL_BITS, NUM_PARTIES, PRODUCT_LIMIT
from fedpipe.encrypted.transform import PublishedTransform, read_transform
from fedpipe.errors import EncryptedError

FIXED_POINT = {"modulus_bits": 64, "fractional_bits": FRACTIONAL_BITS}


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column of raw rows, with its other names in exports; an optional one may be absent."""

    name: str
    aliases: tuple[str, ...] = ()
    optional: bool = False


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """A model version as its operator describes it.

    Attributes:
      certificate: SHA-256 of the privacy certificate's canonical JSON.
      max_magnitude: of an input; beyond it, products could overflow unseen.
      max_output: of a logit; a larger one cannot be this model's.
      operator_sees_rows: whoever runs the service holds enough shares to see the rows.
    """

    model: str
    version: int
    certificate: str
    privacy: str
    transform: PublishedTransform
    columns: tuple[Column, ...]
    num_outputs: int
    class_names: tuple[str, ...]
    max_rows: int
    max_magnitude: float
    max_output: float
    deadline_seconds: float
    operator_sees_rows: bool
    threat_model: str


@dataclass(frozen=True, kw_only=True)
class Ticket:
    """Leave to make one request: where each party's pair goes, by party."""

    request_id: str
    party_urls: tuple[str, ...]
    deadline_seconds: float
    operator_sees_rows: bool


def read_card(content: object) -> ModelCard:
    """Returns the card that JSON holds. What it does not know it ignores.

    Raises:
      EncryptedError: a member is missing or makes no sense, or the arithmetic is not ours.
    """
    limits = member(content, "limits", dict)
    card = ModelCard(
        model=member(content, "model", str),
        version=member(content, "version", int),
        certificate=member(content, "certificate", str),
        privacy=member(content, "privacy", str),
        transform=(transform := read_transform(member(content, "transform", dict))),
        columns=_columns(content, transform),
        num_outputs=member(content, "num_outputs", int),
        class_names=members(content, "class_names", str),
        max_rows=member(limits, "max_rows", int),
        max_magnitude=number(limits, "max_magnitude"),
        max_output=number(limits, "max_output") if "max_output" in limits else PRODUCT_LIMIT,
        deadline_seconds=number(limits, "deadline_seconds"),
        operator_sees_rows=member(content, "operator_sees_rows", bool),
        threat_model=member(content, "threat_model", str),
    )
    _check_sizes(card, member(content, "input_width", int))
    if member(content, "fixed_point", dict) != FIXED_POINT:
        raise EncryptedError(f"Expected a fixed point of {FIXED_POINT}, found another: update fedpipe.")
    if member(content, "activation", str) != ("sigmoid" if card.num_outputs == 1 else "softmax"):
        raise EncryptedError(
            "Expected sigmoid of one output or softmax of several, found another activation."
        )
    return card


def read_ticket(content: object, card: ModelCard, num_rows: int) -> Ticket:
    """Returns the ticket that JSON holds, for these rows and this version alone.

    Raises:
      EncryptedError: it is for something else, or its parties are not three with secure addresses.
    """
    wanted: dict[str, object] = {
        "model": card.model,
        "version": card.version,
        "certificate": card.certificate,
        "rows": num_rows,
        "input_width": card.transform.num_features,
        "num_outputs": card.num_outputs,
    }
    for name, value in wanted.items():
        if member(content, name, type(value)) != value:
            raise EncryptedError(
                f"Expected a ticket with {name} {value}, as in the model card, found another: "
                "do not trust this service before its operator has explained it."
            )
    request_id = member(content, "request_id", str)
    if not request_id or not all(sign.isascii() and (sign.isalnum() or sign in "-_") for sign in request_id):
        raise EncryptedError("Expected a request id of letters, digits, - and _, found another.")
    return Ticket(
        request_id=request_id,
        party_urls=_party_urls(member(content, "parties", list)),
        deadline_seconds=number(content, "deadline_seconds"),
        operator_sees_rows=member(content, "operator_sees_rows", bool),
    )


def check_url(url: str) -> str:
    """Returns `url` without a slash at its end.

    Raises:
      EncryptedError: it is not https, and not this machine either.
    """
    parts = urlsplit(url)
    local = parts.hostname in ("localhost", "127.0.0.1", "::1")
    if not parts.hostname or parts.scheme not in (("https", "http") if local else ("https",)):
        raise EncryptedError(
            f"Expected an address https://HOST[:PORT], found {url!r}: plain http is for this machine alone."
        )
    return url.rstrip("/")


def _party_urls(parties: list[object]) -> tuple[str, ...]:
    found = {member(party, "index", int): check_url(member(party, "url", str)) for party in parties}
    # Who received two of the pairs could join all three shares.
    distinct = {(urlsplit(url).hostname, urlsplit(url).port) for url in found.values()}
    if sorted(found) != list(range(NUM_PARTIES)) or len(distinct) < NUM_PARTIES:
        raise EncryptedError("Expected three parties at three addresses, found others: tell the operator.")
    return tuple(found[index] for index in range(NUM_PARTIES))


def _columns(content: object, transform: PublishedTransform) -> tuple[Column, ...]:
    if not isinstance(content, Mapping) or "columns" not in content:
        return tuple(Column(name=name) for name in transform.columns)
    columns = tuple(
        Column(
            name=member(entry, "name", str),
            aliases=members(entry, "aliases", str),
            optional=member(entry, "optional", bool),
        )
        for entry in member(content, "columns", list)
    )
    if {column.name for column in columns} != set(transform.columns):
        raise EncryptedError("Expected the columns of the transform in the model card, found others.")
    return columns


def _check_sizes(card: ModelCard, input_width: int) -> None:
    num_classes = 2 if card.num_outputs == 1 else card.num_outputs
    sane = min(card.num_outputs, card.max_rows, card.version) >= 1 and card.max_magnitude <= PRODUCT_LIMIT
    if not sane or len(card.class_names) != num_classes or card.transform.num_features != input_width:
        raise EncryptedError("Expected a model card whose sizes agree, found others: tell the operator.")
