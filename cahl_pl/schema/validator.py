"""JSON Schema validators for values that a model wrote, with a time limit for a check.

Patterns are searched by the package `regex`, which accepts the syntax of `re` and a time limit: a text that takes longer
does not pass, and neither does a value for which following references takes longer.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

import regex  # type: ignore[import-untyped]
from jsonschema import Draft202012Validator, ValidationError
from jsonschema.exceptions import best_match
from jsonschema.protocols import Validator
from jsonschema.validators import extend
from referencing import Registry

from cahl_pl.schema.canonical import canonical
from cahl_pl.schema.coercion import is_nullable
from cahl_pl.schema.wording import shorten
from cahl_pl.types import JSONSchema

CACHE_SIZE = 16384
"""Maximum number of compiled schemas kept; beyond it, all are dropped and compiled again when needed."""

CHECK_SECONDS = 0.5
"""Maximum processor time for pattern searches and for following references, for all values of a call together: some
patterns take ages on 30 characters, and if schemas refer to themselves each level of a value may double the time."""

OUT_OF_TIME = "the check of this value takes more than"
"""Start of the message about a value that could not be checked in time."""

MAX_REFERENCES = 50
"""Maximum nesting of references that are followed. Well below Python's own limit, at which the Rust code below jsonschema
panics, and which is closer the deeper the caller is."""


@dataclass(frozen=True, slots=True)
class CompiledSchema:
    """Compiled parts of a schema.

    Attributes:
        source: the schema itself. Keeping it prevents its id from being given to another object.
        properties: parameter -> validator of its value.
        required: names of the required parameters.
        open: whether undeclared parameters are allowed.
        whole: a validator of all arguments together; None if `properties` and `required` say everything.
    """

    source: JSONSchema
    properties: dict[str, Validator]
    required: tuple[str, ...]
    open: bool
    whole: Validator | None


_cache: dict[int, CompiledSchema] = {}

# Keywords that `find_problems` checks itself, and those that constrain nothing.
_PLAIN = set(["type", "properties", "required", "additionalProperties", "title", "description", "$defs", "$schema"])


def compile_schema(schema: JSONSchema) -> CompiledSchema:
    """Return the compiled form of a tool's parameters, which may come from the cache; changes of the schema are not noticed."""
    # By identity: this runs for every model output, and a key made from the text costs as much as validating.
    found = _cache.get(id(schema))
    if found is not None:
        return found
    # The empty registry: a `$ref` must never reach the network. No `$schema`: it would bring the plain validator back.
    root = _Validator({key: value for key, value in schema.items() if key != "$schema"}, registry=Registry())
    extra = schema.get("additionalProperties", False)
    plain = isinstance(extra, bool) and schema.keys() <= _PLAIN
    found = CompiledSchema(
        source=schema,
        properties={name: root.evolve(schema=sub) for name, sub in schema.get("properties", {}).items()},
        required=tuple(schema.get("required", ())),
        open=extra is not False or "patternProperties" in schema,
        whole=None if plain else root,
    )
    if len(_cache) >= CACHE_SIZE:
        _cache.clear()
    _cache[id(schema)] = found
    return found


def _search(pattern: str, text: str) -> bool:
    """Return whether the pattern is found. Raises TimeoutError, and regex.error for the few patterns that only `re` accepts."""
    left = _deadline.at - time.thread_time()
    if left <= 0:
        raise TimeoutError
    return regex.search(pattern, text, timeout=left) is not None


def _pattern(validator: Validator, pattern: str, instance: Any, schema: JSONSchema) -> Iterator[ValidationError]:
    if isinstance(instance, str) and not _search(pattern, instance):
        yield ValidationError(f"{instance!r} does not match {pattern!r}")


def _pattern_properties(
    validator: Any, patterns: Mapping[str, Any], instance: Any, schema: JSONSchema
) -> Iterator[ValidationError]:
    if isinstance(instance, dict):
        for pattern, inner in patterns.items():
            for name, value in instance.items():
                if _search(pattern, name):
                    yield from validator.descend(value, inner, path=name, schema_path=pattern)


def _additional_properties(validator: Any, extra: Any, instance: Any, schema: JSONSchema) -> Iterator[ValidationError]:
    if isinstance(instance, dict) and "patternProperties" in schema:
        patterns = schema["patternProperties"]
        instance = {name: v for name, v in instance.items() if not any(_search(p, name) for p in patterns)}
        schema = {key: value for key, value in schema.items() if key != "patternProperties"}
    yield from Draft202012Validator.VALIDATORS["additionalProperties"](validator, extra, instance, schema)


class _Deadline(threading.local):
    """Deadline of the check running in this thread: `at`, its end; `depth`, the number of references being followed."""

    at = math.inf
    depth = 0


_deadline = _Deadline()


@contextmanager
def time_limit(seconds: float | None = None) -> Iterator[None]:
    """Limit the total processor time of the checks within, `CHECK_SECONDS` by default; an enclosing limit applies too."""
    before = _deadline.at
    _deadline.at = min(before, time.thread_time() + (CHECK_SECONDS if seconds is None else seconds))
    try:
        yield
    finally:
        _deadline.at = before


def is_time_up() -> bool:
    """Return whether the enclosing limit has passed."""
    return time.thread_time() >= _deadline.at


def _limited(keyword: str) -> Callable[[Any, str, Any, JSONSchema], Iterator[ValidationError]]:
    """Return the keyword's check with the limits on time and on references."""
    follow = Draft202012Validator.VALIDATORS[keyword]

    def check(validator: Any, reference: str, instance: Any, schema: JSONSchema) -> Iterator[ValidationError]:
        if time.thread_time() > _deadline.at:
            raise TimeoutError
        if _deadline.depth >= MAX_REFERENCES:
            raise RecursionError
        _deadline.depth += 1
        try:
            yield from follow(validator, reference, instance, schema)
        finally:
            _deadline.depth -= 1

    return check


def _unique_items(validator: Validator, unique: bool, instance: Any, schema: JSONSchema) -> Iterator[ValidationError]:
    # jsonschema compares each item with each other one if they are objects
    if unique and isinstance(instance, list) and len({canonical(item) for item in instance}) < len(instance):
        yield ValidationError("two of the items are the same")


def _unless_null(keyword: str) -> Callable[[Any, Any, Any, JSONSchema], Iterator[ValidationError]]:
    """Return the keyword's check, but null passes if `nullable: true` is next to it, as in OpenAPI 3.0."""
    follow = _limited("$ref") if keyword == "$ref" else Draft202012Validator.VALIDATORS[keyword]

    def check(validator: Any, value: Any, instance: Any, schema: JSONSchema) -> Iterator[ValidationError]:
        if instance is not None or not is_nullable(schema):
            yield from follow(validator, value, instance, schema)

    return check


_Validator = extend(  # type: ignore[no-untyped-call]
    Draft202012Validator,
    {
        **{keyword: _unless_null(keyword) for keyword in ("type", "enum", "const", "$ref", "anyOf", "oneOf", "allOf")},
        "$dynamicRef": _limited("$dynamicRef"),
        "uniqueItems": _unique_items,
        "pattern": _pattern,
        "patternProperties": _pattern_properties,
        "additionalProperties": _additional_properties,
    },
)


def first_error(validator: Validator, value: Any) -> tuple[str, str | None] | None:
    """Return the first fault of a value, in one short sentence, and the keyword that the value breaks.

    Never raises. None for a valid value; no keyword if the value could not be checked.
    """
    _deadline.depth = 0
    try:
        with time_limit():
            # The first error only: a long value may have thousands. best_match looks into the branches of anyOf.
            error = best_match(islice(validator.iter_errors(value), 1))
    except TimeoutError:
        return f"{OUT_OF_TIME} {CHECK_SECONDS} seconds", None
    except BaseException as fault:
        # jsonschema itself fails on some: an int of 5,000 digits, multipleOf of NaN, depth; if the caller's stack is deep, the
        # Rust code below it panics, with something that is not an Exception
        if isinstance(fault, Exception) or type(fault).__name__ == "PanicException":
            return "this value cannot be checked: too deep, too long or out of range", None
        raise
    return None if error is None else (shorten(error.message), str(error.validator))
