"""The JSON Schema of certificates, as it is published: `fedpipe budget schema`."""

from __future__ import annotations

from typing import Any

from fedpipe.ledger.certificate import Certificate

SCHEMA_ID = "urn:fedpipe:privacy-certificate:2"
_EVENT = {"$ref": "#/$defs/Event"}
_POSITIVE = {"type": "number", "exclusiveMinimum": 0}
_PROBABILITY = _POSITIVE | {"maximum": 1}


def certificate_schema() -> dict[str, Any]:
    """Returns the schema (draft 2020-12), events included."""
    schema = Certificate.model_json_schema(mode="serialization")
    definitions = schema["$defs"]
    definitions["Event"] = _event_schema()
    definitions["VersionedEvent"] = {
        "description": "A privacy event, with the version of its format.",
        "allOf": [_EVENT, {"properties": {"version": {"const": 1}}, "required": ["version"]}],
    }
    definitions["ChargedQuery"]["properties"]["event"] = {"$ref": "#/$defs/VersionedEvent"}
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": SCHEMA_ID}
    return head | schema


def _event_schema() -> dict[str, Any]:
    return {
        "description": "What one unit may pay: see docs/certificate.md.",
        "oneOf": [
            _kind("Gaussian", noise_multiplier=_POSITIVE),
            _kind("DiscreteGaussian", noise_stddev=_POSITIVE, sensitivity={"const": 1}),
            _kind("PoissonSampled", sampling_probability=_PROBABILITY, event=_EVENT),
            _kind("SelfComposed", count={"type": "integer", "minimum": 1}, event=_EVENT),
            _kind("Composed", events={"type": "array", "items": _EVENT}),
        ],
    }


def _kind(name: str, **fields: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {"type": {"const": name}, "version": {"const": 1}, **fields},
        "required": ["type", *fields],
        "additionalProperties": False,
    }
