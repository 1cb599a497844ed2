"""What a release costs, described and not yet accounted: `DpEvent`s and their JSON.

dp-accounting describes most mechanisms; the discrete Gaussian is ours. Events travel and
are stored as versioned JSON, never as an epsilon alone, so that anybody can recompute it.
"""

from __future__ import annotations

import math
from typing import Any

import attrs
from dp_accounting import dp_event
from dp_accounting.dp_event import DpEvent

from fedpipe.errors import PrivacyError

FORMAT_VERSION = 1


@attrs.frozen
class DiscreteGaussianDpEvent(DpEvent):
    """An integer changed by at most one, plus discrete Gaussian noise.

    The noise takes the integer x with probability proportional to
    exp(-x^2 / (2 noise_stddev^2)) (Canonne, Kamath, Steinke 2020, arXiv:2004.00010,
    Definition 1). dp-accounting has its privacy loss distribution
    (`from_discrete_gaussian_mechanism`, sensitivity 1) but no event for it.

    Attributes:
      noise_stddev: the parameter sigma of the noise, in counts; positive.
    """

    noise_stddev: float


def event_to_json(event: DpEvent) -> dict[str, Any]:
    """Returns the JSON form of `event`.

    Raises:
      PrivacyError: if fedpipe has no accounting for this kind of event, or a number is not valid.

    >>> event_to_json(dp_event.GaussianDpEvent(1.5))
    {'version': 1, 'type': 'Gaussian', 'noise_multiplier': 1.5}
    """
    check_event(event)
    return {"version": FORMAT_VERSION, **_encode(event)}


def event_from_json(data: dict[str, Any]) -> DpEvent:
    """Returns the event that `event_to_json` described.

    Raises:
      PrivacyError: if the version, the type or a field is unknown, missing or not a valid number.
    """
    if not isinstance(data, dict):
        raise PrivacyError(f"Expected a privacy event, found {type(data).__name__}.")
    fields = dict(data)
    version = fields.pop("version", None)
    if type(version) is not int or version != FORMAT_VERSION:
        raise PrivacyError(f"Expected an event of format version {FORMAT_VERSION}, found {version!r}.")
    return _decode(fields)


def check_event(event: DpEvent) -> None:
    """Raises PrivacyError unless fedpipe can account for `event` and its numbers are valid.

    Events made in code are as little trusted as those that arrive: a noise that is not a
    number, or a negative count, would make a budget grow.
    """
    _decode(_encode(event))


def _encode(event: DpEvent) -> dict[str, Any]:
    match event:
        case dp_event.GaussianDpEvent():
            return {"type": "Gaussian", "noise_multiplier": event.noise_multiplier}
        case DiscreteGaussianDpEvent():
            return {"type": "DiscreteGaussian", "noise_stddev": event.noise_stddev, "sensitivity": 1}
        case dp_event.PoissonSampledDpEvent():
            return {
                "type": "PoissonSampled",
                "sampling_probability": event.sampling_probability,
                "event": _encode(event.event),
            }
        case dp_event.SelfComposedDpEvent():
            return {"type": "SelfComposed", "count": event.count, "event": _encode(event.event)}
        case dp_event.ComposedDpEvent():
            return {"type": "Composed", "events": [_encode(inner) for inner in event.events]}
    raise PrivacyError(f"Expected an event that fedpipe can account for, found {type(event).__name__}.")


_FIELDS = {
    "Gaussian": {"noise_multiplier"},
    "DiscreteGaussian": {"noise_stddev", "sensitivity"},
    "PoissonSampled": {"sampling_probability", "event"},
    "SelfComposed": {"count", "event"},
    "Composed": {"events"},
}


def _decode(fields: Any) -> DpEvent:
    kind = _checked_kind(fields)
    match kind:
        case "Gaussian":
            return dp_event.GaussianDpEvent(_positive(fields["noise_multiplier"]))
        case "DiscreteGaussian":
            if _positive(fields["sensitivity"]) != 1:
                raise PrivacyError(f"Expected sensitivity 1, found {fields['sensitivity']}.")
            return DiscreteGaussianDpEvent(noise_stddev=_positive(fields["noise_stddev"]))
        case "PoissonSampled":
            return _decode_sampled(fields)
        case "SelfComposed":
            count = fields["count"]
            if type(count) is not int or count < 1:
                raise PrivacyError(f"Expected a count of 1 or more, found {count!r}.")
            return dp_event.SelfComposedDpEvent(_decode(fields["event"]), count)
    if not isinstance(fields["events"], list):
        raise PrivacyError(f"Expected a list of events, found {type(fields['events']).__name__}.")
    return dp_event.ComposedDpEvent([_decode(inner) for inner in fields["events"]])


def _checked_kind(fields: Any) -> str:
    kind = fields.get("type") if isinstance(fields, dict) else None
    if not isinstance(kind, str) or kind not in _FIELDS:
        raise PrivacyError(f"Expected an event that fedpipe can account for, found {kind!r}.")
    if fields.keys() - {"type"} != _FIELDS[kind]:
        raise PrivacyError(f"Expected {kind} with {sorted(_FIELDS[kind])}, found {sorted(fields)}.")
    return kind


def _decode_sampled(fields: dict[str, Any]) -> DpEvent:
    probability = _positive(fields["sampling_probability"])
    if probability > 1:
        raise PrivacyError(f"Expected sampling_probability <= 1, found {probability}.")
    inner = _decode(fields["event"])
    if not isinstance(inner, dp_event.GaussianDpEvent):
        raise PrivacyError(f"Expected a sampled Gaussian, found a sampled {type(inner).__name__}.")
    return dp_event.PoissonSampledDpEvent(probability, inner)


def _positive(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
        raise PrivacyError(f"Expected a positive finite number in a privacy event, found {value!r}.")
    return float(value)
