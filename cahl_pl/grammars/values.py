"""JSON values of a schema as rules: types, enums and required parameters; in plans also references in the place of any value.

Keys stand in the order in which they are declared, and white space as `json.dumps` writes it: where there is a choice, models
lose themselves in it. What llguidance itself understands of a schema beyond that (patterns, ranges, lengths) is left to it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from cahl_pl.grammars.rules import Rules, json_literal, literal, one_of
from cahl_pl.schema.coercion import dereference, is_nullable

MAX_DEPTH: Final = 6
"""Levels that a value may have where its schema does not say, or contains itself."""

_SAYS_NOTHING: Final = frozenset(
    {
        *("description", "title", "default", "examples", "example", "format", "nullable", "deprecated", "readOnly"),
        *("writeOnly", "$comment", "$defs", "definitions", "$schema", "$id", "optional"),
    }
)
"""Keywords by which no value is refused; `format` is one, here and where calls are checked."""

_KNOWN: Final[dict[str, frozenset[str]]] = {
    "object": frozenset({"type", "properties", "required", "additionalProperties"}),
    "array": frozenset({"type", "items", "minItems", "maxItems"}),
}
_LIMITS: Final = {"minimum": -(10**17), "maximum": 10**17}


class Values:
    """Rules of the values of one tool's parameters.

    Args:
        rules: of the grammar.
        root: the tool's schema, in which references (`$ref`) are looked up.
        earlier: sub-tasks whose results may be referred to; None: there are no references, all values are written out.
    """

    def __init__(self, rules: Rules, root: Mapping[str, Any], earlier: int | None) -> None:
        self.rules = rules
        self.root = root
        self.earlier = earlier
        self._reference = None if earlier is None else rules.reference(earlier)

    def arguments(self) -> str:
        """Return the object of a call's arguments."""
        return self._object(self.root, MAX_DEPTH)

    def value(self, schema: Any, depth: int) -> str:
        """Return the values of a schema, or references to results in their place.

        Args:
            schema: JSON Schema; what is none allows any value.
            depth: levels that may lie below.
        """
        options = self._options(dereference(schema, self.root), depth)
        if self._reference is not None:
            options.append(self._reference)
        return self.rules.rule(one_of(options))

    def _options(self, schema: Any, depth: int) -> list[str]:
        if not isinstance(schema, Mapping):
            return self._any(depth)
        said = {key: value for key, value in schema.items() if key not in _SAYS_NOTHING}
        null = [literal("null")] if is_nullable(schema) else []
        if isinstance(said.get("enum"), list) and said["enum"]:
            return [*map(json_literal, said["enum"]), *null]
        if "const" in said:
            return [json_literal(said["const"]), *null]
        branches = said.get("anyOf") or said.get("oneOf")
        if isinstance(branches, list) and said.keys() <= {"anyOf", "oneOf", "type"}:
            if depth < 1:
                return [self._string(), *null]
            found = [
                option for branch in branches for option in self._options(dereference(branch, self.root), depth - 1)
            ]
            return [*found, *null]
        kinds = said.get("type")
        if kinds is None:
            kinds = "object" if "properties" in said else "array" if "items" in said else None
        if kinds is None:
            return self._any(depth) if not said else [self._left_to_llguidance(said)]
        listed = kinds if isinstance(kinds, list) else [kinds]
        return [option for kind in listed for option in self._of_kind(kind, said, depth)] + null

    def _of_kind(self, kind: Any, said: Mapping[str, Any], depth: int) -> list[str]:
        beyond = said.keys() - _KNOWN.get(str(kind), frozenset({"type"}))
        if beyond and not isinstance(said.get("type"), list):
            return [self._left_to_llguidance(said)]
        if kind == "string":
            return [self._string()]
        if kind == "integer":
            return [self.rules.terminal("INTEGER")]
        if kind == "number":
            return [self.rules.terminal("NUMBER")]
        if kind == "boolean":
            return [literal("true"), literal("false")]
        if kind == "null":
            return [literal("null")]
        if kind == "array":
            return [self._array(said, depth)]
        if kind == "object":
            return [self._object(said, depth)]
        return self._any(depth)

    def _string(self) -> str:
        # in a plan a text that is a reference has to be to an earlier sub-task
        return self.rules.terminal("STRING") if self.earlier is None else self.rules.unreferring()

    def _any(self, depth: int) -> list[str]:
        """Any value: of objects the keys are not known."""
        number = self.rules.terminal("NUMBER")
        options = [self._string(), number, literal("true"), literal("false"), literal("null")]
        return options if depth < 1 else [*options, self._array({}, depth), self._free_object({}, depth)]

    def _array(self, said: Mapping[str, Any], depth: int) -> str:
        least, most = _count(said.get("minItems"), 0), _count(said.get("maxItems"), None)
        if depth < 1 or most == 0:
            return literal("[]")
        item = self.value(said.get("items"), depth - 1)
        more = f'(", " {item}){{{max((least or 0) - 1, 0)},{"" if most is None else most - 1}}}'
        full = f'"[" {item} {more} "]"'
        return self.rules.rule(full if least else f"{literal('[]')} | {full}")

    def _object(self, said: Mapping[str, Any], depth: int) -> str:
        properties = said.get("properties")
        properties = dict(properties) if isinstance(properties, Mapping) else {}
        required = [name for name in said.get("required", ()) if isinstance(name, str)]
        properties |= {name: None for name in required if name not in properties}
        if not properties:
            closed = said is self.root and not said.get("additionalProperties")
            return literal("{}") if closed or depth < 1 else self._free_object(said, depth)
        if depth < 1:
            properties = {name: schema for name, schema in properties.items() if name in required}
        pairs = [
            (f"{json_literal(name)} {literal(': ')} {self.value(schema, depth - 1)}", name in required)
            for name, schema in properties.items()
        ]
        return self.rules.rule(f'"{{" {self._pairs(pairs)} "}}"') if pairs else literal("{}")

    def _pairs(self, pairs: list[tuple[str, bool]]) -> str:
        """Return the pairs in their order; those that are not required may be missing, with their comma."""
        after, first = "", ""  # what may follow a pair, and what an object may begin with
        for place, (pair, is_required) in reversed(list(enumerate(pairs))):
            alone = f"{pair} {after}".strip()
            first = self.rules.rule(alone if is_required else f"{alone} | {first}" if first else f"({alone})?")
            if place:  # nothing stands before the first
                behind = f'", " {alone}'
                if is_required:
                    after = self.rules.rule(behind)
                else:
                    after = self.rules.rule(f"{behind} | {after}" if after else f"({behind})?")
        return first

    def _free_object(self, said: Mapping[str, Any], depth: int) -> str:
        """Return an object of any keys; that no key stands in it twice is more than a grammar can say."""
        extra = said.get("additionalProperties")
        value = self.value(extra if isinstance(extra, Mapping) else None, depth - 1)
        pair = f'{self.rules.terminal("SENTENCE")} ": " {value}'
        return self.rules.rule(f'{literal("{}")} | "{{" {pair} (", " {pair})* "}}"')

    def _left_to_llguidance(self, said: Mapping[str, Any]) -> str:
        schema = dict(said)
        if schema.get("type") in ("integer", "number"):  # digits without end cannot be read
            for bound, other in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
                if bound not in schema and other not in schema:
                    schema[bound] = _LIMITS[bound]
        for name in ("$defs", "definitions"):
            if name in self.root:
                schema[name] = self.root[name]
        how = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": ", "lenient": True}
        return self.rules.rule(f"%json {json.dumps(schema | {'x-guidance': how})}")


def _count(value: Any, default: int | None) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else default
