"""Check of tool declarations: the parameters must be a schema against which calls can be checked."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

import regex  # type: ignore[import-untyped]
from jsonschema import Draft202012Validator, FormatChecker
from jsonschema.exceptions import SchemaError as InvalidSchema
from referencing import Registry
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012

from cahl_pl.errors import SchemaError
from cahl_pl.schema.wording import kind_word, shorten
from cahl_pl.types import ToolSpec

_SOUND_SCHEMAS = 1024
"""Maximum number of schemas remembered as valid; beyond it, all are forgotten."""

VALUES: Final = frozenset({"default", "const", "enum", "examples"})
"""Keywords whose content is not a schema, whatever it looks like."""

NAMED: Final = frozenset({"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"})
"""Keywords whose content is schemas by name; the names may be those of keywords."""

_FORMATS: Final = FormatChecker(())
"""Checker of a schema's patterns, by the library that searches for them."""

_sound: set[str] = set()


@_FORMATS.checks("regex", raises=(regex.error, re.error))
def _is_pattern(text: object) -> bool:
    try:
        return not isinstance(text, str) or regex.compile(text) is not None
    except regex.error:  # a few are valid in `re` only
        return re.compile(str(text)) is not None


def check_tool(tool: ToolSpec, where: str) -> None:
    """Check that a tool's parameters are a valid JSON Schema of type object; of equal ones, only the first takes time.

    Args:
        tool: the tool.
        where: the place for error messages, such as `"rows.jsonl, line 3"`.

    Raises:
        SchemaError: in one sentence, naming the place, the tool and the fault.
    """
    place = f"{where}, tool {tool.name!r}"
    schema = tool.parameters
    if not isinstance(schema, Mapping) or schema.get("type") != "object":
        raise SchemaError(f'{place}: parameters must be a JSON Schema with "type": "object"')
    try:
        schema = dict(schema)
        text = repr(schema)  # tells lists from tuples and 1 from 1.0, unlike some comparisons
        if text in _sound:
            return
        Draft202012Validator.check_schema(schema, format_checker=_FORMATS)
        resolver = Registry[Any]().resolver_with_root(DRAFT202012.create_resource(schema))
        for reference in _texts(schema, "$ref"):
            _check_target(reference, resolver, place)
        for item in _objects(schema):
            _refuse_infinities(item, place)
        _refuse_unlimited(schema, place)
        if len(_sound) == _SOUND_SCHEMAS:
            _sound.clear()
        _sound.add(text)
    except InvalidSchema as error:
        at = "".join(f"{part}: " for part in error.absolute_path)
        raise SchemaError(f"{place}: parameters are not valid JSON Schema: {at}{shorten(error.message)}") from None
    except Unresolvable as error:
        raise SchemaError(
            f"{place}: parameters are not valid JSON Schema: $ref {error.ref!r} leads nowhere "
            "(only references within the schema are followed)"
        ) from None
    except RecursionError:
        raise SchemaError(f"{place}: parameters are not valid JSON Schema: nested too deeply") from None
    except SchemaError:
        raise
    except Exception as error:  # for patterns and addresses, the libraries below raise many kinds
        raise SchemaError(f"{place}: parameters are not valid JSON Schema: {shorten(str(error))}") from None


def _check_target(reference: str, resolver: Any, place: str) -> None:
    """Refuse a reference to something other than a schema, and one that leads back to itself by references alone."""
    seen: set[str] = set()
    target: Any = reference
    while isinstance(target, str):
        if target in seen:
            raise SchemaError(f"{place}: parameters are not valid JSON Schema: $ref {reference!r} leads back to itself")
        seen.add(target)
        found = resolver.lookup(target).contents
        if not isinstance(found, Mapping | bool):
            raise SchemaError(
                f"{place}: parameters are not valid JSON Schema: $ref {reference!r} leads to {kind_word(found)}, not to a "
                "schema"
            )
        Draft202012Validator.check_schema(found, format_checker=_FORMATS)
        target = found.get("$ref") if isinstance(found, Mapping) else None


def _refuse_infinities(schema: Mapping[str, Any], place: str) -> None:
    for key, value in schema.items():
        stack = [value] if key in VALUES or isinstance(value, float) else []
        while stack:
            item = stack.pop()
            if isinstance(item, float) and not math.isfinite(item):
                raise SchemaError(
                    f"{place}: parameters are not valid JSON Schema: {key} holds {item}, which JSON does not have: leave it out"
                )
            stack += item.values() if isinstance(item, Mapping) else item if isinstance(item, list | tuple) else ()


def _objects(schema: Any) -> Iterator[Mapping[str, Any]]:
    """Yield the schemas within a schema, itself first; values and names that look like schemas do not count."""
    stack = [(schema, False)]
    while stack:
        item, named = stack.pop()
        if isinstance(item, Mapping):
            if not named:
                yield item
            stack += [
                (value, not named and key in NAMED) for key, value in item.items() if named or key not in VALUES
            ]
        elif isinstance(item, list):
            stack += [(one, False) for one in item]


def _texts(schema: Any, keyword: str) -> Iterator[str]:
    return (item[keyword] for item in _objects(schema) if isinstance(item.get(keyword), str))


def _refuse_unlimited(schema: Mapping[str, Any], place: str) -> None:
    """Refuse keywords that make jsonschema use its own validator, whose pattern searches may take very long."""
    if any("$schema" in item for item in _objects(schema) if item is not schema):
        raise SchemaError(f"{place}: $schema may only stand at the top of the parameters; leave the others out")
    keys = {key for item in _objects(schema) for key in item}
    if {"patternProperties", "unevaluatedProperties"} <= keys:
        raise SchemaError(f"{place}: patternProperties and unevaluatedProperties cannot stand in one schema")
