"""JSON values of a schema as rules: types, enums and required parameters; in plans also references instead of any value.

Keys are in the order of declaration, and white space is as in `json.dumps`: given a choice, models get lost in it.
Patterns and ranges of single values are left to llguidance; constraints that neither it nor a rule can express are not
enforced: a complete call is checked again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import lru_cache
from itertools import islice
from typing import Any, Final

from jsonschema import Draft202012Validator

from cahl_pl.grammars.rules import Rules, json_literal, literal, one_of
from cahl_pl.schema.canonical import canonical
from cahl_pl.schema.coercion import is_nullable
from cahl_pl.schema.merging import merged, parts, whole

MAX_DEPTH: Final = 6
"""Maximum depth of nested references, and of values whose schema says nothing."""

MAX_ALTERNATIVES: Final = 256
"""Maximum alternatives of one value; only a schema that contains itself has more."""

_SAYS_NOTHING: Final = frozenset(
    {
        *("description", "title", "default", "examples", "example", "format", "nullable", "deprecated", "readOnly"),
        *("writeOnly", "$comment", "$defs", "definitions", "$schema", "$id", "optional"),
    }
)
"""Keywords that refuse no value; `format` is one, here and in the check of calls."""

_KEYWORDS: Final[dict[str, frozenset[str]]] = {
    "object": frozenset(
        {
            "properties",
            "required",
            "additionalProperties",
            "patternProperties",
            "propertyNames",
            "minProperties",
            "maxProperties",
        }
    ),
    "array": frozenset({"items", "prefixItems", "minItems", "maxItems"}),
    "string": frozenset({"pattern", "minLength", "maxLength"}),
    "number": frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"}),
}
"""Keywords that are enforced, by the type whose values they constrain."""

_LIMITS: Final = {"minimum": -(10**17), "maximum": 10**17}


class Values:
    """Rules of the values of one tool's parameters.

    Args:
        rules: rules of the grammar.
        root: the tool's schema, in which references (`$ref`) are looked up.
        earlier: number of sub-tasks whose results may be referred to; None: no references, all values are written out.
    """

    def __init__(self, rules: Rules, root: Mapping[str, Any], earlier: int | None) -> None:
        self.rules = rules
        self.root = root
        self.earlier = earlier
        self._made: dict[tuple[str, int] | None, str] = {}
        self._reference = None if earlier is None else rules.reference(earlier)

    def arguments(self) -> str:
        """Return the object of a call's arguments."""
        found = [
            self._object(one, depth, closed=True)
            for one, depth in islice(self._alternatives(self.root, MAX_DEPTH), MAX_ALTERNATIVES)
        ]
        return self.rules.rule(one_of(found))

    def value(self, schema: Any, depth: int) -> str:
        """Return the values of a schema, or references to results instead.

        Args:
            schema: JSON Schema; anything else allows any value.
            depth: references (`$ref`) that may be followed below.
        """
        if depth < -MAX_DEPTH:  # it requires itself endlessly, so it has no value
            return literal("null")
        key = (schema["$ref"], depth) if isinstance(schema, Mapping) and schema.keys() == {"$ref"} else None
        if key in self._made:
            return self._made[key]
        found = islice(self._alternatives(schema, depth), MAX_ALTERNATIVES)
        options = [option for one, below in found for option in self._options(one, below)]
        if self._reference is not None:
            options.append(self._reference)
        made = self.rules.rule(one_of(options))
        if key is not None:
            self._made[key] = made
        return made

    def _alternatives(self, schema: Any, depth: int) -> Iterator[tuple[dict[str, Any], int]]:
        """Yield schemas without `$ref`, `allOf`, `anyOf` and `oneOf`, each with its depth: a value follows one of them."""
        if not isinstance(schema, Mapping) or depth < -MAX_DEPTH:
            yield {}, depth
            return
        depth -= _leads_on(schema)
        said = dict(whole(schema, self.root))
        branches = parts(said.pop("anyOf", None)) or parts(said.pop("oneOf", None))
        said = {key: value for key, value in said.items() if key not in ("$ref", "allOf", "oneOf")}
        if not branches:
            yield said, depth
            return
        if depth < 1:  # only branches that lead no further, if there are any
            branches = [branch for branch in branches if not _leads_on(branch)] or branches[:1]
        found = [(whole(branch, self.root), depth - _leads_on(branch)) for branch in branches]
        for branch, below in [one for one in found if not _contradict(said, one[0])] or found:
            yield from self._alternatives(merged(said, branch), below)

    def _options(self, schema: Mapping[str, Any], depth: int) -> list[str]:
        said = {key: value for key, value in schema.items() if key not in _SAYS_NOTHING}
        null = [literal("null")] if is_nullable(schema) else []
        listed = [said["const"]] if "const" in said else said.get("enum")
        if isinstance(listed, list) and listed:
            return [*map(json_literal, _of_type(listed, said.get("type"))), *null]
        kinds = said.get("type") or next((kind for kind, words in _KEYWORDS.items() if words & said.keys()), None)
        if kinds is None:
            return self._any(depth)
        return [option for kind in parts(kinds) or [kinds] for option in self._of_kind(kind, said, depth)] + null

    def _of_kind(self, kind: Any, said: Mapping[str, Any], depth: int) -> list[str]:
        if kind == "string":
            return [self._text(said)]
        if kind in ("integer", "number"):
            return [self._number(kind, said)]
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
        # in a plan a text that is a reference must point to an earlier sub-task
        return self.rules.terminal("STRING") if self.earlier is None else self.rules.unreferring()

    def _text(self, said: Mapping[str, Any]) -> str:
        if "pattern" in said and (found := self._left_to_llguidance("string", said)) is not None:
            return found
        least, most = _count(said.get("minLength"), 0), _count(said.get("maxLength"), None)
        return self.rules.text_of(self._string(), least or 0, most)

    def _number(self, kind: str, said: Mapping[str, Any]) -> str:
        found = self._left_to_llguidance(kind, said) if _KEYWORDS["number"] & said.keys() else None
        return self.rules.terminal(kind.upper()) if found is None else found

    def _left_to_llguidance(self, kind: str, said: Mapping[str, Any]) -> str | None:
        """Return llguidance's rule for a single value's pattern or range; None if it does not support it."""
        words = _KEYWORDS["string" if kind == "string" else "number"]
        schema = {"type": kind} | {key: value for key, value in said.items() if key in words}
        if kind != "string":  # unbounded digits cannot be read
            for bound, other in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
                if bound not in schema and other not in schema:
                    schema[bound] = _LIMITS[bound]
        rule = f"%json {json.dumps(schema | {'x-guidance': _AS_WRITTEN})}"
        return self.rules.rule(rule) if _is_known(rule) else None

    def _any(self, depth: int) -> list[str]:
        """Return options for any value; keys of objects are unknown."""
        number = self.rules.terminal("NUMBER")
        options = [self._string(), number, literal("true"), literal("false"), literal("null")]
        return options if depth < 1 else [*options, self._array({}, depth - 1), self._object({}, depth - 1)]

    def _array(self, said: Mapping[str, Any], depth: int) -> str:
        least, most = _count(said.get("minItems"), 0) or 0, _count(said.get("maxItems"), None)
        first, rest = parts(said.get("prefixItems")), said.get("items")
        if rest is False:
            most = min(len(first), len(first) if most is None else most)
        most = None if most is None else max(most, least)  # if no list is valid
        if most == 0 or (depth < 1 and not least and _leads_on(rest)):
            return literal("[]")
        places = [self.value(item, depth) for item in first[:most]]
        after = ""
        if most is None or most > len(places):
            item = self.value(rest, depth)
            places = places or [item]
            after = _more(item, max(least - len(places), 0), None if most is None else most - len(places))
        for place in reversed(range(1, len(places))):
            behind = f'", " {places[place]} {after}'.strip()
            after = behind if place < least else f"({behind})?"
        full = f'"[" {places[0]} {after} "]"'
        return self.rules.rule(full if least else f"{literal('[]')} | {full}")

    def _object(self, said: Mapping[str, Any], depth: int, closed: bool = False) -> str:
        """Return an object; `closed`: undeclared keys must be allowed explicitly, as in a call."""
        properties = said.get("properties")
        properties = dict(properties) if isinstance(properties, Mapping) else {}
        required = [name for name in parts(said.get("required")) if isinstance(name, str)]
        names = whole(said.get("propertyNames"), self.root)  # if listed, each of them may occur once
        listed = (
            [name for name in parts(names.get("enum")) if isinstance(name, str)] if isinstance(names, Mapping) else []
        )
        extra = said.get("additionalProperties")
        properties |= {name: extra for name in listed if name not in properties and extra is not False}
        properties |= {name: None for name in required if name not in properties}
        if depth < 1:
            properties = {name: one for name, one in properties.items() if name in required or not _leads_on(one)}
        pairs = [
            (f"{json_literal(name)} {literal(': ')} {self.value(one, depth)}", name in required)
            for name, one in properties.items()
        ]
        if self._is_open(said, bool(properties) or closed) and not listed:
            is_needed = not properties and bool(_count(said.get("minProperties"), 0))
            pairs.append((self._further(said, list(properties), depth), is_needed))
        return self.rules.rule(f'"{{" {self._pairs(pairs)} "}}"') if pairs else literal("{}")

    def _is_open(self, said: Mapping[str, Any], closed: bool) -> bool:
        """Return whether further keys are allowed: if the schema says so, or if nothing is known of the object."""
        if said.get("patternProperties"):
            return True
        extra = said.get("additionalProperties")
        return extra is True or isinstance(extra, Mapping) or (extra is None and not closed)

    def _further(self, said: Mapping[str, Any], declared: list[str], depth: int) -> str:
        """Return pairs with undeclared keys; that none occurs twice is more than a grammar can express."""
        patterns, extra = said.get("patternProperties"), said.get("additionalProperties")
        kinds = [(self._text({"pattern": one}), kind) for one, kind in (patterns or {}).items()]
        if extra is True or isinstance(extra, Mapping) or not kinds:
            kinds.append((self._key(whole(said.get("propertyNames"), self.root), declared), extra))
        pair = self.rules.rule(one_of([f"{key} {literal(': ')} {self.value(kind, depth - 1)}" for key, kind in kinds]))
        least, most = 0, None
        if not declared:
            least, most = _count(said.get("minProperties"), 0) or 0, _count(said.get("maxProperties"), None)
        return f"{pair} {_more(pair, max(least - 1, 0), None if most is None else most - 1)}".strip()

    def _key(self, names: Any, declared: list[str]) -> str:
        """Return a key that `propertyNames` allows, or any undeclared one."""
        limited = isinstance(names, Mapping) and _KEYWORDS["string"] & names.keys()
        return self._text(names) if limited else self.rules.key_beside(declared)

    def _pairs(self, pairs: list[tuple[str, bool]]) -> str:
        """Return the pairs in order; optional ones may be missing, with their comma."""
        after, first = "", ""  # rules for what may follow a pair, and for an object's beginning
        for place, (pair, is_required) in reversed(list(enumerate(pairs))):
            alone = f"{pair} {after}".strip()
            first = self.rules.rule(alone if is_required else f"{alone} | {first}" if first else f"({alone})?")
            if place:  # nothing precedes the first
                behind = f'", " {alone}'
                if is_required:
                    after = self.rules.rule(behind)
                else:
                    after = self.rules.rule(f"{behind} | {after}" if after else f"({behind})?")
        return first


_AS_WRITTEN: Final = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": ", "lenient": True}


@lru_cache(maxsize=4096)
def _is_known(rule: str) -> bool:
    """Return whether llguidance supports a rule; it does not support look-ahead patterns, for one."""
    try:
        from llguidance import LLMatcher
    except ImportError:  # it runs on a server, whose abilities are unknown here
        return False
    return not LLMatcher.validate_grammar(f"start: {rule}")


def _more(body: str, least: int, most: int | None) -> str:
    """Return a body repeated, each time after a comma; nothing if it may not occur."""
    return "" if most is not None and most < 1 else f'(", " {body}){{{least},{"" if most is None else most}}}'


def _of_type(listed: list[Any], kinds: Any) -> list[Any]:
    """Return the values of the declared type; all of them if none is."""
    check = Draft202012Validator({} if kinds is None else {"type": kinds})
    return [item for item in listed if check.is_valid(item)] or listed


def _contradict(one: Mapping[str, Any], other: Any) -> bool:
    is_other = isinstance(other, Mapping) and "const" in one and "const" in other
    return is_other and canonical(one["const"]) != canonical(other["const"])


def _leads_on(schema: Any) -> bool:
    return isinstance(schema, Mapping) and ("$ref" in schema or any(map(_leads_on, parts(schema.get("allOf")))))


def _count(value: Any, default: int | None) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else default
