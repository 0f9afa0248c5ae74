"""Tool schemas: what is wrong with a call, and the same call with its arguments in their declared types.

Schemas are JSON Schema, draft 2020-12. Two rules are not the plain standard's, because they are about calls
of tools:

* a parameter that `properties` does not list is *undeclared*, unless `additionalProperties` says otherwise;
* a value of another type passes where it can be read as its declared type: `"3"` as an integer, `3` as a
  string, `"true"` as a boolean, a JSON text as an array or object. Gold data of the field are full of such
  values. What is inside arrays and objects is read in the same way; `$ref` is validated, but not looked into
  for this.

Patterns are searched by the package `regex`, which takes the syntax of `re` and a time limit: a text that takes longer
does not pass, and neither does a value that is followed through references for longer.

Calls are written by models: nothing here raises on any value that JSON can express. Schemas are expected to
have passed `check_tool`, and not to change afterwards.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

import regex  # type: ignore[import-untyped]
from jsonschema import Draft202012Validator, ValidationError
from jsonschema.exceptions import SchemaError as InvalidSchema
from jsonschema.exceptions import best_match
from jsonschema.protocols import Validator
from jsonschema.validators import extend
from referencing import Registry
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012

from cahl_pl.errors import SchemaError
from cahl_pl.parsing import read_json
from cahl_pl.types import FeedbackError, JSONSchema, ToolCall, ToolSpec

CACHE_SIZE = 16384
"""Compiled schemas kept; when there are more, all are dropped and compiled again as they are needed."""

CHECK_SECONDS = 0.5
"""Processor time that a search for a pattern, and following references, may take: some patterns need ages on 30 characters,
and where schemas refer to themselves each level of a value may double the time."""

_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?([eE][+-]?\d+)?", re.ASCII)
_INTEGER = re.compile(r"[+-]?\d+", re.ASCII)


class Problem(NamedTuple):
    """One thing that is wrong with a call.

    Attributes:
        cause: `unknown_tool`, `missing`, `undeclared` or `type`.
        parameter: the parameter it is about; None when it is about the whole call.
        message: one short sentence, for the model and for logs.
    """

    cause: FeedbackError
    parameter: str | None
    message: str


def check_tool(tool: ToolSpec, where: str) -> None:
    """Check that a tool's parameters are a valid JSON Schema of type object.

    Args:
        tool: the tool.
        where: the place that an error names, such as `"rows.jsonl, line 3"`.

    Raises:
        SchemaError: in one sentence, naming the place, the tool and what is wrong.
    """
    place = f"{where}, tool {tool.name!r}"
    schema = tool.parameters
    if not isinstance(schema, Mapping) or schema.get("type") != "object":
        raise SchemaError(f'{place}: parameters must be a JSON Schema with "type": "object"')
    try:
        schema = dict(schema)
        # The format checker is what looks at regular expressions.
        Draft202012Validator.check_schema(schema, format_checker=Draft202012Validator.FORMAT_CHECKER)
        resolver = Registry[Any]().resolver_with_root(DRAFT202012.create_resource(schema))
        for reference in _texts(schema, "$ref"):
            resolver.lookup(reference)
        _refuse_unlimited(schema, place)
    except InvalidSchema as error:
        at = "".join(f"{part}: " for part in error.absolute_path)
        raise SchemaError(f"{place}: parameters are not valid JSON Schema: {at}{_short(error.message)}") from None
    except Unresolvable as error:
        raise SchemaError(
            f"{place}: parameters are not valid JSON Schema: $ref {error.ref!r} leads nowhere "
            "(only references within the schema are followed)"
        ) from None
    except RecursionError:
        raise SchemaError(f"{place}: parameters are not valid JSON Schema: nested too deeply") from None
    except SchemaError:
        raise
    except Exception as error:  # of patterns and addresses, the libraries beneath raise many kinds
        raise SchemaError(f"{place}: parameters are not valid JSON Schema: {_short(str(error))}") from None


def find_problems(call: ToolCall, tools: Sequence[ToolSpec]) -> list[Problem]:
    """What is wrong with a call: an unknown tool, missing or undeclared parameters, values of a wrong type.

    Args:
        call: the call, as a model wrote it; values that can be read as their declared type pass.
        tools: the tools offered; the first one of the call's name counts.

    Returns:
        The problems, at most one a parameter, in the order missing, undeclared, type; empty for a valid call.
    """
    tool = _find(call.name, tools)
    if tool is None:
        offered = ", ".join(other.name for other in tools) or "none"
        return [Problem("unknown_tool", None, f"no tool is named {_show(call.name)}; offered: {_short(offered)}")]
    compiled = _compiled(tool.parameters)
    arguments = call.arguments
    problems = [
        Problem("missing", name, f"missing required parameter {name!r} of {tool.name}")
        for name in compiled.required
        if name not in arguments
    ]
    if not compiled.open:
        declared = _short(", ".join(compiled.properties) or "none")
        problems += [
            Problem("undeclared", name, f"{tool.name} has no parameter {_show(name)}; declared: {declared}")
            for name in arguments
            if name not in compiled.properties
        ]
    values = _coerced(arguments, compiled)
    for name, value in values.items():
        validator = compiled.properties.get(name)
        message = None if validator is None else _first_error(validator, value)
        if message is not None:
            problems.append(Problem("type", name, f"parameter {name!r} of {tool.name}: {message}"))
    if compiled.whole is not None and not problems:
        message = _first_error(compiled.whole, values)
        if message is not None:
            problems.append(Problem("type", None, f"arguments of {tool.name}: {message}"))
    return problems


def coerce_call(call: ToolCall, tools: Sequence[ToolSpec]) -> ToolCall:
    """The call with each argument in its declared type where it can be read as one, and as it is where not.

    Undeclared arguments, and calls of tools that are not offered, stay as they are.
    """
    tool = _find(call.name, tools)
    if tool is None:
        return call
    return ToolCall(call.name, _coerced(call.arguments, _compiled(tool.parameters)))


def call_key(call: ToolCall, tools: Sequence[ToolSpec]) -> tuple[str, str]:
    """A hashable key of a call: two calls are the same, once coerced, iff their keys are equal."""
    return call.name, canonical(coerce_call(call, tools).arguments)


def canonical(value: Any, strip: bool = False) -> str:
    """A canonical text of a JSON value: two values are the same value iff their texts are equal.

    `1` and `1.0` are the same, `1` and `True` are not; the order of an object's keys does not matter; case and outer
    whitespace of strings do, since a tool sees them too (`strip` leaves out the whitespace); NaN is NaN. What JSON cannot
    express equals only itself. Takes any value, of any depth and size, in time linear in its size (but for sorting keys).
    """
    # A stack instead of recursion: the depth is the model's to choose. Text instead of tuples for the same
    # reason: comparing and hashing nested tuples recurses.
    out: list[str] = []
    stack: list[tuple[bool, Any]] = [(False, value)]
    while stack:
        literal, item = stack.pop()
        if literal:
            out.append(item)
        elif isinstance(item, Mapping):
            out.append("{")
            stack.append((True, "}"))
            keys = {json.dumps(key) if isinstance(key, str) else _scalar(key, strip): key for key in item}
            for text in sorted(keys, reverse=True):
                stack += [(True, ","), (False, item[keys[text]]), (True, text + ":")]
        elif isinstance(item, list | tuple):
            out.append("[")
            stack.append((True, "]"))
            for child in reversed(item):
                stack += [(True, ","), (False, child)]
        else:
            out.append(_scalar(item, strip))
    return "".join(out)


def _scalar(value: Any, strip: bool) -> str:
    if isinstance(value, str):
        return json.dumps(value.strip() if strip else value)
    if value is None or isinstance(value, bool):
        return str(value)
    if isinstance(value, float) and not value.is_integer():  # NaN and infinities too
        return repr(value)
    if isinstance(value, int | float):
        return hex(int(value))  # decimal digits cost quadratic time, and are refused from 4301 on
    return f"<{type(value).__name__} {id(value)}>"


@dataclass(frozen=True, slots=True)
class _Compiled:
    """A schema's parts, ready for use.

    Attributes:
        source: the schema itself. Holding it keeps its id from being given to another object.
        properties: parameter -> validator of its value.
        required: names of the required parameters.
        open: whether undeclared parameters are welcome.
        whole: a validator of all arguments together; None when `properties` and `required` say everything.
    """

    source: JSONSchema
    properties: dict[str, Validator]
    required: tuple[str, ...]
    open: bool
    whole: Validator | None


_cache: dict[int, _Compiled] = {}

# What `find_problems` looks at itself, and what constrains nothing.
_PLAIN = set(["type", "properties", "required", "additionalProperties", "title", "description", "$defs", "$schema"])


def _compiled(schema: JSONSchema) -> _Compiled:
    # By identity: this runs for every model output, and a key made of the text costs as much as validating.
    found = _cache.get(id(schema))
    if found is not None:
        return found
    # The empty registry: a `$ref` must never reach the network. No `$schema`: it would bring the plain validator back.
    root = _Validator({key: value for key, value in schema.items() if key != "$schema"}, registry=Registry())
    extra = schema.get("additionalProperties", False)
    plain = isinstance(extra, bool) and schema.keys() <= _PLAIN
    found = _Compiled(
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


def _find(name: str, tools: Sequence[ToolSpec]) -> ToolSpec | None:
    return next((tool for tool in tools if tool.name == name), None)


def _objects(schema: Any) -> Iterator[Mapping[str, Any]]:
    stack = [schema]
    while stack:
        item = stack.pop()
        if isinstance(item, Mapping):
            yield item
            stack += item.values()
        elif isinstance(item, list):
            stack += item


def _texts(schema: Any, keyword: str) -> Iterator[str]:
    return (item[keyword] for item in _objects(schema) if isinstance(item.get(keyword), str))


def _refuse_unlimited(schema: Mapping[str, Any], place: str) -> None:
    """Refuse what makes jsonschema use its own validator, whose search for patterns may take ages."""
    below = [value for key, value in schema.items() if key != "$schema"]
    if any(True for _ in _texts(below, "$schema")):
        raise SchemaError(f"{place}: $schema may only stand at the top of the parameters; leave the others out")
    keys = {key for item in _objects(schema) for key in item}
    if {"patternProperties", "unevaluatedProperties"} <= keys:
        raise SchemaError(f"{place}: patternProperties and unevaluatedProperties cannot stand in one schema")


def _search(pattern: str, text: str) -> bool:
    """Whether the pattern is found. Raises TimeoutError, and regex.error for the few patterns that only `re` takes."""
    return regex.search(pattern, text, timeout=CHECK_SECONDS) is not None


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


_deadline = threading.local()  # `at`: when the check that this thread is busy with has to end


def _limited(keyword: str) -> Callable[[Any, str, Any, JSONSchema], Iterator[ValidationError]]:
    """The keyword, as long as there is time."""
    follow = Draft202012Validator.VALIDATORS[keyword]

    def check(validator: Any, reference: str, instance: Any, schema: JSONSchema) -> Iterator[ValidationError]:
        if time.thread_time() > _deadline.at:
            raise TimeoutError
        yield from follow(validator, reference, instance, schema)

    return check


def _unique_items(validator: Validator, unique: bool, instance: Any, schema: JSONSchema) -> Iterator[ValidationError]:
    # jsonschema compares each item with each other one where they are objects
    if unique and isinstance(instance, list) and len({canonical(item) for item in instance}) < len(instance):
        yield ValidationError("two of the items are the same")


_Validator = extend(  # type: ignore[no-untyped-call]
    Draft202012Validator,
    {
        "$ref": _limited("$ref"),
        "$dynamicRef": _limited("$dynamicRef"),
        "uniqueItems": _unique_items,
        "pattern": _pattern,
        "patternProperties": _pattern_properties,
        "additionalProperties": _additional_properties,
    },
)


def _first_error(validator: Validator, value: Any) -> str | None:
    _deadline.at = time.thread_time() + CHECK_SECONDS
    try:
        # The first error only: a long value may have thousands. best_match looks into the branches of anyOf.
        error = best_match(islice(validator.iter_errors(value), 1))
    except TimeoutError:
        return f"the check of this value takes more than {CHECK_SECONDS} seconds"
    except Exception:  # jsonschema itself fails on some: an int of 5,000 digits, multipleOf of NaN, depth
        return "this value cannot be checked: too deep, too long or out of range"
    return None if error is None else _short(error.message)


def _coerced(arguments: Mapping[str, Any], compiled: _Compiled) -> dict[str, Any]:
    return {
        name: _coerce(value, compiled.properties[name].schema) if name in compiled.properties else value
        for name, value in arguments.items()
    }


def _coerce(value: Any, schema: Any) -> Any:
    """The value read as the schema's type. Recurses into the schema, so no deeper than the schema is."""
    if not isinstance(schema, Mapping):
        return value
    options = [option for option in _options(schema) if isinstance(option, Mapping)]
    for types_as in (_is, _read):  # a type that the value has already goes before any that it can be read as
        for option in options:
            for kind in _types(option):
                read = types_as(value, kind)
                if read is not _NO:
                    return _inside(read, option)
    return value


def _inside(value: Any, schema: Mapping[str, Any]) -> Any:
    if isinstance(value, list) and isinstance(schema.get("items"), Mapping):
        return [_coerce(item, schema["items"]) for item in value]
    if isinstance(value, dict) and isinstance(schema.get("properties"), Mapping):
        known = schema["properties"]
        return {key: _coerce(item, known[key]) if key in known else item for key, item in value.items()}
    return value


def _options(schema: Mapping[str, Any]) -> list[Any]:
    return schema.get("anyOf") or schema.get("oneOf") or [schema]


def _types(schema: Mapping[str, Any]) -> Sequence[str]:
    kinds = schema.get("type", ())
    return (kinds,) if isinstance(kinds, str) else kinds


_NO = object()
_PYTHON_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "array": (list,),
    "object": (dict,),
    "null": (type(None),),
}


def _is(value: Any, kind: str) -> Any:
    if isinstance(value, bool) and kind != "boolean":
        return _NO
    return value if isinstance(value, _PYTHON_TYPES.get(kind, ())) else _NO


def _read(value: Any, kind: str) -> Any:
    """The value as a value of that type, or `_NO`."""
    try:
        if kind == "string" and isinstance(value, bool | int | float):
            return json.dumps(value)
        if kind == "integer" and isinstance(value, float) and value.is_integer():
            return int(value)
        if isinstance(value, str):
            return _read_text(value.strip(), kind)
    except (ValueError, OverflowError, RecursionError):  # digits or brackets without end
        pass
    return _NO


def _read_text(text: str, kind: str) -> Any:
    if kind in ("integer", "number") and _INTEGER.fullmatch(text):
        return int(text)
    if kind in ("integer", "number") and _NUMBER.fullmatch(text):
        number = float(text)
        if kind == "integer":
            return int(number) if number.is_integer() else _NO
        return number if number - number == 0 else _NO  # not an infinity
    if kind == "boolean" and text.lower() in ("true", "false"):
        return text.lower() == "true"
    if kind in ("array", "object") and text[:1] == ("[" if kind == "array" else "{"):
        return read_json(text)
    return _NO


def _show(value: Any) -> str:
    try:
        return _short(repr(value))
    except Exception:  # an int of 5,000 digits, great depth
        return f"a {type(value).__name__}"


def _short(text: str, length: int = 240) -> str:
    """The text, without its middle where it is long: messages name the value first and the fault last."""
    half = length // 2
    return text if len(text) <= length else f"{text[:half]} ... {text[-half:]}"
