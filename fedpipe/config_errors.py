"""Says in one line what is wrong with a configuration: what was expected, what was found, what to do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from fedpipe.errors import nearest

MAX_SHOWN = 60
Location = tuple[int | str, ...]


def explain(
    error: ValidationError,
    model: type[BaseModel],
    raw: Mapping[str, Any],
    source: str,
    *,
    overridable: bool = True,
) -> str:
    """Returns the first thing that is wrong with `raw`, which was read from `source`, as a `model`.

    `overridable` says that the command line takes --set.
    """
    first = error.errors(include_url=False)[0]
    location = _settings_only(first["loc"], raw)
    where = ".".join(map(str, location)) or "the configuration"
    match first["type"]:
        case "extra_forbidden":
            names = _fields_at(model, first["loc"][:-1])
            hint = nearest(str(location[-1]), names) if names else "Remove it."
            return f"Expected a known setting, found {where!r} in {source}. {hint}"
        case "missing" | "union_tag_not_found":
            last = first["loc"][-1] if first["type"] == "missing" else "type"
            name = ".".join(map(str, (*location, last)))
            return f"Expected a setting {name!r} in {source}, found none: add it."
        case "value_error":
            return f"{_sentence(first)} ({where} in {source})."
    is_shown = isinstance(first["input"], Mapping) or first["type"] in ("too_short", "too_long")
    found = "" if is_shown else f", found {_shown(first['input'])}"
    return f"Expected {where} to be {_wanted(first)}{found}: {_remedy(first, source, overridable)}."


def _wanted(first: ErrorDetails) -> str:
    context = first.get("ctx", {})
    match first["type"]:
        case "string_pattern_mismatch":
            return f"text that matches {context['pattern']}"
        case "too_short" | "too_long":
            bound, word = ("min_length", "least") if first["type"] == "too_short" else ("max_length", "most")
            return f"a group of at {word} {context[bound]}, found {context['actual_length']}"
        case "union_tag_invalid":
            return f"of type {context['expected_tags']}, found {context['tag']!r}"
        case "model_type" | "dict_type" | "model_attributes_type":
            return "a group of settings"
        case "tuple_type" | "list_type":
            return "a list"
    return first["msg"].removeprefix("Input should be ")


def _remedy(first: ErrorDetails, source: str, overridable: bool) -> str:
    if isinstance(first["input"], bool) and first["type"] == "string_type":
        return "YAML reads a bare yes, no, on or off as true or false, so put it in quotes"
    return f"correct it in {source}{' or with --set' if overridable else ''}"


def _sentence(first: ErrorDetails) -> str:
    text = first["msg"].removeprefix("Value error, ").removesuffix(".")
    return text[:1].upper() + text[1:]


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."


def _settings_only(location: Location, raw: Any) -> Location:
    """Returns `location` without what pydantic adds to it: tags of unions, and marks such as [key]."""
    kept: list[int | str] = []
    for part in location:
        named = isinstance(raw, Mapping) and part in raw
        if named or (isinstance(raw, list | tuple) and isinstance(part, int)):
            raw = raw[part]
            kept.append(part)
    return tuple(kept)


def _fields_at(model: Any, location: Location) -> list[str]:
    """Returns the names of the settings that may stand at `location`; none if anything may."""
    kind: Any = model
    for part in location:
        kind = _inside(kind, str(part))
    return [field.alias or name for name, field in kind.model_fields.items()] if _is_model(kind) else []


def _inside(kind: Any, part: str) -> Any:
    if _is_model(kind):
        fields = {field.alias or name: field.annotation for name, field in kind.model_fields.items()}
        return fields.get(part)
    if get_origin(kind) is dict:
        return get_args(kind)[1]
    return next((member for member in _members(kind) if part in _tags(member)), None)


def _members(kind: Any) -> Iterator[Any]:
    if get_origin(kind) is Annotated:
        yield from _members(get_args(kind)[0])
    elif get_origin(kind) in (Union, UnionType):
        for member in get_args(kind):
            yield from _members(member)
    else:
        yield kind


def _tags(member: Any) -> tuple[Any, ...]:
    field = member.model_fields.get("type") if _is_model(member) else None
    annotation = field.annotation if field else None
    return get_args(annotation) if get_origin(annotation) is Literal else ()


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)
