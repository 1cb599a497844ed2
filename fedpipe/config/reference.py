"""The configuration reference, generated from the settings themselves."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from fedpipe.config.settings import Config

HEADER = """# Configuration

Generated from the settings by `fedpipe config reference`; do not edit.

A configuration is a YAML file. Every setting has a default unless it says *required*, and
`--set key.path=value` overrides any of them. Unknown settings are errors.
"""


def configuration_reference() -> str:
    """Returns docs/configuration.md."""
    return HEADER + "".join(_sections(Config, ""))


def undocumented_settings() -> list[str]:
    """Returns the settings without a description."""
    return [path for path, field in _settings(Config, "") if not field.description and not _model(field)]


def _sections(model: type[BaseModel], path: str) -> Iterator[str]:
    plain = [(name, field) for name, field in _named_fields(model) if not _models(field.annotation)]
    title = f"`{path}`" if path else "Top level"
    first_line = (model.__doc__ or "").strip().splitlines()[0]
    if plain:
        yield f"\n## {title}\n\n{first_line}\n\n| setting | type | default | meaning |\n|---|---|---|---|\n"
        for name, field in plain:
            yield f"| `{name}` | {_type(field)} | {_default(field)} | {field.description or ''} |\n"
    for name, field in _named_fields(model):
        inner = f"{path}.{name}" if path else name
        nested = _models(field.annotation)
        for each in nested:
            suffix = f".<name> ({_tag(each)})" if _is_mapping(field.annotation) else ""
            yield from _sections(each, inner + suffix)


def _settings(model: type[BaseModel], path: str) -> Iterator[tuple[str, FieldInfo]]:
    for name, field in _named_fields(model):
        inner = f"{path}.{name}" if path else name
        yield inner, field
        for each in _models(field.annotation):
            yield from _settings(each, inner)


def _named_fields(model: type[BaseModel]) -> list[tuple[str, FieldInfo]]:
    return [
        (field.alias or name, field)
        for name, field in model.model_fields.items()
        if name != "type" or not _literal(field)
    ]


def _literal(field: FieldInfo) -> bool:
    """A tag such as `type: numeric` has one value; the section's title says it."""
    return (
        typing.get_origin(field.annotation) is typing.Literal and len(typing.get_args(field.annotation)) == 1
    )


def _tag(model: type[BaseModel]) -> str:
    field = model.model_fields.get("type")
    return f"type: {typing.get_args(field.annotation)[0]}" if field else model.__name__


def _model(field: FieldInfo) -> bool:
    return bool(_models(field.annotation))


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    found = []
    for part in typing.get_args(annotation):
        found.extend(_models(part))
    return found


def _is_mapping(annotation: Any) -> bool:
    return typing.get_origin(annotation) is dict


def _type(field: FieldInfo) -> str:
    return _describe(field.annotation) + _bounds(field)


def _describe(annotation: Any) -> str:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin in (typing.Union, types.UnionType):
        return " or ".join("nothing" if part is type(None) else _describe(part) for part in arguments)
    if origin is typing.Annotated:
        return _describe(arguments[0])
    if origin is tuple:
        return f"list of {_describe(arguments[0])}"
    if origin is dict:
        return f"{_describe(arguments[0])} -> {_describe(arguments[1])}"
    return {"str": "text", "bool": "true or false", "int": "whole number", "float": "number"}.get(
        getattr(annotation, "__name__", ""), str(annotation)
    )


def _bounds(field: FieldInfo) -> str:
    signs = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
    found = [
        f"{sign} {getattr(part, name):g}"
        for part in field.metadata
        for name, sign in signs.items()
        if hasattr(part, name)
    ]
    return f" ({', '.join(found)})" if found else ""


def _default(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True) if not field.is_required() else PydanticUndefined
    if value is PydanticUndefined:
        return "*required*"
    if value is None:
        return "nothing"
    if isinstance(value, tuple):
        return "`[" + ", ".join(map(str, value)) + "]`"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"
