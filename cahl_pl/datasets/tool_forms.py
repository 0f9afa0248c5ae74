"""Tools as people and programs write them: OpenAI's wrapper, Responses, Anthropic, MCP, bare, and xLAM's flat parameters."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any, Final, TypeAlias

from cahl_pl.datasets.declared_values import read_value
from cahl_pl.datasets.rows import get_field
from cahl_pl.datasets.type_names import JSON_TYPES, named_type, type_schema
from cahl_pl.errors import DataError, SchemaError
from cahl_pl.schema import check_tool
from cahl_pl.schema.drafts import modernise, with_parameters_on_top
from cahl_pl.schema.wording import kind_word
from cahl_pl.types import ToolSpec

PARAMETERS: Final = ("parameters", "input_schema", "inputSchema", "parametersJsonSchema")
"""Keys of a tool's parameters: OpenAI's, Anthropic's, MCP's, Gemini's name."""

_DECLARING: Final = (*PARAMETERS, "function", "toolSpec")
_OF_GEMINI: Final = (
    "googleSearch", "google_search", "googleSearchRetrieval", "google_search_retrieval", "codeExecution", "code_execution",
    "urlContext", "url_context", "googleMaps", "computerUse",
)  # fmt: skip

TypeReader: TypeAlias = Callable[[str], dict[str, Any]]

_KEYWORDS: Final = (
    "type",
    "properties",
    "$ref",
    "anyOf",
    "oneOf",
    "allOf",
    "additionalProperties",
    "patternProperties",
)
_MAX_DEPTH: Final = 64
_NULL_SAYS: Final = ("default", "const", "example")
"""Keywords of a schema that may be null."""
_NO_PARAMETERS: Final[dict[str, Any]] = {"type": "object", "properties": {}}
_SPELLED: Final = ("name", "description", *PARAMETERS, "function")
_OTHERS: Final = (
    "required",
    "returns",
    "return",
    "response",
    "responses",
    "outputSchema",
    "output_schema",
    "annotations",
)
_OTHERS_TOO: Final = ("output_parameters", "cache_control", "examples", "_meta", "results", "output", "metadata")


def read_tool(value: Any, lenient: bool = False) -> ToolSpec:
    """Return the tool that a JSON value declares.

    `{"type": "function", "function": {...}}`, or its inner object: `{"name", "description"}` with `parameters` (OpenAI),
    `input_schema` (Anthropic) or `inputSchema` (MCP). The schema is JSON Schema; Python's names of types are read as
    JSON's (`dict`, `float`, `List[int]`, `any`), `nullable`, and a `required` of true or false within a parameter, as what
    they mean. Parameters may also be given directly, `{"city": {"type": "str", "description": ...}}`, as in xLAM: such a
    one is required unless it has a default, its type says `optional`, or its `required` is false.

    Args:
        value: the declaration.
        lenient: treat an unknown type as none; data sets have many that no JSON value can have.

    Raises:
        DataError: it declares no tool; in one sentence, naming the field.
    """
    if not isinstance(value, dict):
        raise DataError(f"a tool must be an object with a name and parameters, not {kind_word(value)}")
    _refuse_hosted(value)
    try:
        return _read(json.dumps(_without_nulls(value), allow_nan=False), lenient)
    except (TypeError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        name = f" of {value['name']!r}" if isinstance(value.get("name"), str) else ""
        raise DataError(
            f"its declaration{name} holds what JSON does not have, such as NaN, an infinity or a date: write null, a number or "
            f"text ({error})"
        ) from None


def _without_nulls(value: Any) -> Any:
    """Return a declaration without null keys, which say nothing: data sets write each key that other rows have."""
    if isinstance(value, dict):
        return {key: _without_nulls(one) for key, one in value.items() if one is not None or key in _NULL_SAYS}
    return list(map(_without_nulls, value)) if isinstance(value, list) else value


@lru_cache(maxsize=1024)  # rows share tools, and a schema is slow to check and to compile
def _read(text: str, lenient: bool) -> ToolSpec:
    value = json.loads(text)
    function = get_field(value, "function", dict) if "function" in value else value.get("toolSpec", value)
    _refuse_misspelt(function)
    name = get_field(function, "name", str)
    if not name.strip():
        raise DataError("the name is empty")
    description = function.get("description")
    if not isinstance(description, str | None):
        raise DataError(f"the field 'description' must be text, but is {kind_word(description)}")
    tool = ToolSpec(name, description or "", _parameters(function, type_schema if lenient else named_type))
    if not is_plain(tool.parameters):
        try:
            check_tool(tool, "schema")
        except SchemaError as error:
            raise DataError(str(error)) from None
        tool = replace(tool, parameters=with_parameters_on_top(tool.parameters))
    _refuse_undeclared(tool.parameters)
    return tool


def _refuse_hosted(value: Mapping[str, Any]) -> None:
    """Refuse a tool that a provider runs itself, of which only the kind is given."""
    kind = value.get("type")
    told = isinstance(kind, str) and kind not in ("function", "object") and not any(key in value for key in _DECLARING)
    hosted = kind if told and ("name" not in value or kind == "custom" or re.search(r"_\d{8}$", str(kind))) else None
    if hosted is None and len(value) == 1:
        hosted = next((key for key in value if key in _OF_GEMINI), None)
    if hosted is not None:
        what = "takes free text" if hosted == "custom" else "its provider runs itself"
        raise DataError(
            f"it is {hosted!r}, a tool that {what}: it has no parameters, so that no call of it can be learnt; leave it out, "
            "or declare a function in its place"
        )


def _refuse_misspelt(function: Mapping[str, Any]) -> None:
    """Refuse a field that nearly matches one that is read: its content would be lost."""
    for key, value in function.items():
        if key in _SPELLED or key in _OTHERS or key in _OTHERS_TOO:
            continue
        near = difflib.get_close_matches(key, _SPELLED, 1, cutoff=0.8)
        if near and near[0] not in function:
            raise DataError(f"there is no field {key!r} of a tool; did you mean {near[0]!r}?")
        if isinstance(value, dict) and not any(name in function for name in PARAMETERS):
            raise DataError(
                f"the field {key!r} is none of a tool; the parameters stand in 'parameters', as JSON Schema"
            )


def _parameters(function: Mapping[str, Any], types: TypeReader) -> dict[str, Any]:
    found = [name for name in PARAMETERS if function.get(name) is not None]
    if len(found) > 1 and any(function[name] != function[found[0]] for name in found):
        raise DataError(f"the parameters stand there twice, in {found[0]!r} and {found[1]!r}: leave one of them out")
    declared = function[found[0]] if found else {}
    if isinstance(declared, str):
        declared = read_value(declared)
    if not isinstance(declared, dict):
        raise DataError(f"the field {found[0]!r} must be JSON Schema, an object, but is {kind_word(declared)}")
    if set(declared) == {"json"} and isinstance(declared["json"], dict):  # Bedrock's wrapper
        declared = declared["json"]
    if not declared:
        return dict(_NO_PARAMETERS)
    odd = next((key for key, value in declared.items() if not isinstance(value, dict)), None)
    if odd is not None and not any(key in _KEYWORDS for key in declared):
        raise DataError(
            f"the field {found[0]!r} is no JSON Schema: it has no 'properties', and {odd!r} is no parameter, which is an object"
        )
    if declared.get("required") is True and isinstance(declared.get("properties"), dict):
        raise DataError(f"the field {found[0]!r}: 'required' is true; give the names of the required parameters, in a list")
    try:
        schema = _flat(declared, types) if _is_flat(declared) else json_schema(declared, types)
    except DataError as error:
        raise DataError(f"the field {found[0]!r}: {error}") from None
    schema.setdefault("type", "object")
    more = function.get("required")
    if isinstance(more, list) and schema.get("properties") and ("required" not in schema or _is_flat(declared)):
        schema["required"] = more  # a list counts more than parameters that say nothing
    return schema


def _is_flat(declared: Mapping[str, Any]) -> bool:
    """Return whether these are parameters by name, and not a JSON Schema."""
    schema = isinstance(declared.get("type"), str | list) or "properties" in declared or "$ref" in declared
    return not schema and all(isinstance(value, dict) for value in declared.values())


def _flat(declared: Mapping[str, Any], types: TypeReader) -> dict[str, Any]:
    properties, required = {}, []
    for name, value in declared.items():
        given = value.get("required")
        optional = "optional" in str(value.get("type", "")).lower() or value.get("optional") is True
        if given is True or (given is None and not optional and "default" not in value):
            required.append(name)
        properties[name] = json_schema(value, types, (name,))
        if properties[name].get("default") == "":  # how xLAM writes "none"
            del properties[name]["default"]
    return {"type": "object", "properties": properties} | ({"required": required} if required else {})


def json_schema(schema: Any, types: TypeReader = named_type, place: tuple[str, ...] = ()) -> Any:
    """Return the JSON Schema of a schema that may name types as Python does, and use keywords of OpenAPI and older drafts.

    Args:
        schema: the declaration.
        types: reader of type names that JSON Schema does not have.
        place: its place, for messages.

    Raises:
        DataError: a type is not known, or a part is not a schema.
    """
    if len(place) > 2 * _MAX_DEPTH:
        raise DataError("it is nested too deeply")
    if isinstance(schema, bool) or is_plain(schema):
        return schema
    if not isinstance(schema, dict):
        raise DataError(f"{'.'.join(place) or 'it'} must be a schema, an object, not {kind_word(schema)}")
    made = {key: value for key, value in schema.items() if key not in ("nullable", "type") and not _is_flag(key, value)}
    if not isinstance(made.get("examples", []), list):  # which constrain nothing
        del made["examples"]
    modernise(made)
    made = _type(schema.get("type"), types, place) | made if "type" in schema else made
    for key in ("properties", "$defs", "definitions", "patternProperties", "dependentSchemas"):
        if isinstance(made.get(key), dict):
            made[key] = {name: json_schema(one, types, (*place, key, name)) for name, one in made[key].items()}
    for key in ("items", "additionalProperties", "not", "contains", "propertyNames", "if", "then", "else"):
        if isinstance(made.get(key), dict):
            made[key] = json_schema(made[key], types, (*place, key))
    for key in ("anyOf", "oneOf", "allOf", "prefixItems"):
        if isinstance(made.get(key), list):
            made[key] = [json_schema(one, types, (*place, key)) for one in made[key]]
    if isinstance(schema.get("properties"), dict):
        _required(schema, made)
    if schema.get("nullable") is True:
        _allow_null(made)
    return made


def _is_flag(key: str, value: Any) -> bool:
    """Return whether a key says whether its parameter is required, which JSON Schema says in a list next to `properties`."""
    return key in ("required", "optional") and (isinstance(value, bool) or value is None)


def _type(given: Any, types: TypeReader, place: tuple[str, ...]) -> dict[str, Any]:
    if given is None:
        return {}
    try:
        if isinstance(given, str):
            return {"type": given} if given in JSON_TYPES else types(given)
        if isinstance(given, list) and all(isinstance(one, str) for one in given):
            options = [_type(one, types, place) for one in given]
            if {} in options:
                return {}
            simple = all(option.keys() == {"type"} and isinstance(option["type"], str) for option in options)
            return {"type": [option["type"] for option in options]} if simple else {"anyOf": options}
    except DataError as error:
        raise DataError(f"{'.'.join((*place, 'type'))}: {error}") from None
    raise DataError(f"{'.'.join((*place, 'type'))} must be the name of a type, such as {JSON_TYPES[0]!r}")


def _required(schema: Mapping[str, Any], made: dict[str, Any]) -> None:
    """Collect the flags of single parameters in the list of required ones."""
    listed = schema.get("required")
    names = list(listed) if isinstance(listed, list) else []
    for name, one in schema["properties"].items():
        if not isinstance(one, dict):
            continue
        if one.get("required") is True and name not in names:
            names.append(name)
        if (one.get("required") is False or one.get("optional") is True) and name in names:
            names.remove(name)
    if names or isinstance(listed, list):
        made["required"] = names


def _allow_null(made: dict[str, Any]) -> None:
    kind = made.get("type")
    if isinstance(kind, str):
        made["type"] = [kind, "null"] if kind != "null" else kind
    elif isinstance(kind, list) and "null" not in kind:
        made["type"] = [*kind, "null"]
    for key in ("anyOf", "oneOf"):
        if isinstance(made.get(key), list):
            made[key] = [*made[key], {"type": "null"}]
    if isinstance(made.get("enum"), list) and None not in made["enum"]:
        made["enum"] = [*made["enum"], None]


def _refuse_undeclared(schema: Mapping[str, Any]) -> None:
    """Refuse required parameters that no call could have, since they are not declared."""
    properties = schema.get("properties", {})
    for name in schema.get("required", ()):
        if name not in properties and not schema.get("additionalProperties") and "patternProperties" not in schema:
            near = difflib.get_close_matches(name, properties, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"those declared are: {', '.join(properties) or 'none'}"
            raise DataError(f"the field 'required' names {name!r}, which is not among 'properties'; {hint}")


def read_tools(value: Any, field: str = "tools", lenient: bool = False) -> tuple[ToolSpec, ...]:
    """Return the tools of a list, or of text that is one, in JSON or in Python's notation; each of them may be text too.

    Raises:
        DataError: naming the field and the tool.
    """
    return tuple(_each(value, field, lenient))


def _each(value: Any, field: str, lenient: bool) -> Iterator[ToolSpec]:
    try:
        if isinstance(value, str):
            value = read_value(value) if value.strip() else []
        listed = get_field({field: value}, field, list)
    except DataError as error:
        raise DataError(str(error) if f"{field!r}" in str(error) else f"the field {field!r}: {error}") from None
    for number, tool in enumerate(listed, start=1):
        try:
            text = isinstance(tool, str) and tool.lstrip().startswith("{")
            yield read_tool(read_value(tool) if text else tool, lenient)
        except DataError as error:
            raise DataError(f"the field {field!r}, tool {number}: {error}") from None


def is_plain(schema: Any) -> bool:
    """Return whether a schema has only common keywords, all valid: `check_tool`, which takes milliseconds, would pass."""
    if not isinstance(schema, dict):
        return False
    for key, value in schema.items():
        if key == "type":
            plain = isinstance(value, str) and value in JSON_TYPES
        elif key in ("description", "title"):
            plain = isinstance(value, str)
        elif key == "enum":
            plain = isinstance(value, list)
        elif key == "required":
            plain = isinstance(value, list) and all(isinstance(n, str) for n in value) and len(set(value)) == len(value)
        elif key == "items":
            plain = is_plain(value)
        elif key == "properties":
            plain = isinstance(value, dict) and all(map(is_plain, value.values()))
        else:
            plain = key == "default"
        if not plain:
            return False
    return True
