"""Type hints as JSON Schema, by pydantic."""

from __future__ import annotations

import inspect
import sys
import types
import typing
import warnings
from collections.abc import Mapping
from enum import Enum, Flag
from functools import partial
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin, get_type_hints

import typing_extensions
from pydantic import BeforeValidator, Field, PydanticUserError, TypeAdapter, WithJsonSchema
from pydantic.json_schema import GenerateJsonSchema, PydanticJsonSchemaWarning

from cahl_pl.python_tools.simplify import simplified


def readable(hint: Any) -> Any:
    """Return the hint in a form that pydantic accepts on every version of Python.

    `typing.TypedDict` is replaced by that of typing_extensions, which pydantic requires before Python 3.12, a named tuple is
    described by its keys instead of by positions, and members of an Enum that are tuples are read from lists.

    Raises:
        TypeError: a TypedDict or a named tuple contains itself.
    """
    if isinstance(hint, type) and issubclass(hint, Enum) and any(isinstance(one.value, tuple) for one in hint):
        return Annotated[hint, BeforeValidator(partial(_member, hint))]
    if sys.version_info < (3, 12) and typing.is_typeddict(hint):
        hints = get_type_hints(hint, include_extras=True)
        _refuse_itself(hint, hints)
        optional = optional_keys(hint, hints)
        fields = {name: _without_marks(of) for name, of in hints.items()}
        fields = {
            name: typing_extensions.NotRequired[readable(of)] if name in optional else readable(of)
            for name, of in fields.items()
        }
        return typing_extensions.TypedDict(hint.__name__, fields)  # type: ignore[operator]
    if isinstance(hint, type) and issubclass(hint, tuple) and hasattr(hint, "_fields"):
        return Annotated[hint, WithJsonSchema(_schema_of_named_tuple(hint))]
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is None or origin is Literal or not arguments:
        return hint
    if origin is Annotated:
        return Annotated[(readable(arguments[0]), *map(_said, arguments[1:]))]
    new = tuple(list(map(readable, one)) if isinstance(one, list) else readable(one) for one in arguments)
    if new == arguments:
        return hint
    if origin in (Union, types.UnionType):
        return Union[new]  # noqa: UP007
    return origin[new if len(new) > 1 else new[0]]


def _member(kind: type[Enum], value: Any) -> Any:
    """Return the member whose value is a tuple of a list's items; anything else unchanged."""
    return next((one for one in kind if isinstance(value, list) and one.value == _as_tuples(value)), value)


def _as_tuples(value: Any) -> Any:
    return tuple(map(_as_tuples, value)) if isinstance(value, list) else value


def _refuse_itself(hint: Any, hints: Mapping[str, Any]) -> None:
    """Check that a TypedDict or a named tuple does not contain itself, directly or through another one.

    Raises:
        TypeError: it does; a sentence without a full stop.
    """
    stack, seen = list(hints.values()), set[int]()
    while stack:
        one = stack.pop()
        if one is hint:
            raise TypeError(f"{hint.__name__} holds itself, which a dataclass or a pydantic model may: make it one")
        if id(one) not in seen:
            seen.add(id(one))
            stack += get_args(one)
            if typing.is_typeddict(one) or (isinstance(one, type) and hasattr(one, "_fields")):
                stack += get_type_hints(one, include_extras=True).values()


def optional_keys(hint: Any, hints: Mapping[str, Any]) -> set[str]:
    """Return the keys that a TypedDict may leave out.

    Args:
        hint: the TypedDict. Its `__optional_keys__` are wrong if its annotations are texts.
        hints: its resolved annotations, with `Required` and `NotRequired`.
    """
    marks = {name: get_origin(of) for name, of in hints.items()}
    return {
        name
        for name, mark in marks.items()
        if mark is typing.NotRequired or (mark is not typing.Required and name in hint.__optional_keys__)
    }


def _without_marks(hint: Any) -> Any:
    while get_origin(hint) in (typing.Required, typing.NotRequired, typing_extensions.ReadOnly):
        (hint,) = get_args(hint)
    return hint


def _said(extra: Any) -> Any:
    """Return a text, or a `Doc`, in `Annotated` as a description."""
    text = getattr(extra, "documentation", extra)
    return Field(description=text) if isinstance(text, str) else extra


def _schema_of_named_tuple(hint: Any) -> dict[str, Any]:
    hints, defaults = get_type_hints(hint, include_extras=True), hint._field_defaults
    _refuse_itself(hint, hints)
    properties = {}
    for name in hint._fields:
        default = {"default": defaults[name]} if isinstance(defaults.get(name), str | int | float) else {}
        properties[name] = schema_of(hints.get(name, Any)) | default
    required = [name for name in hint._fields if name not in defaults]
    return {"type": "object", "properties": properties} | ({"required": required} if required else {})


_BOUNDS: Final = {"ge": "minimum", "gt": "exclusiveMinimum", "le": "maximum", "lt": "exclusiveMaximum"}


class _Schemas(GenerateJsonSchema):
    """Pydantic's schemas, but decimal numbers are numbers, not "a number or a text of this pattern".

    And the values of a Flag are numbers, since its members may be combined.
    """

    def decimal_schema(self, schema: Any) -> dict[str, Any]:
        bounds = {key: float(schema[name]) for name, key in _BOUNDS.items() if schema.get(name) is not None}
        return {"type": "number"} | {key: int(one) if one.is_integer() else one for key, one in bounds.items()}

    def enum_schema(self, schema: Any) -> dict[str, Any]:
        return {"type": "integer"} if issubclass(schema["cls"], Flag) else super().enum_schema(schema)

    def dataclass_schema(self, schema: Any) -> dict[str, Any]:
        found = super().dataclass_schema(schema)
        said = schema["cls"].__doc__ or ""
        if "description" not in found and said and not said.startswith(f"{schema['cls'].__name__}("):
            found["description"] = inspect.cleandoc(said)  # older versions of pydantic leave it out
        return found


def schema_of(hint: Any) -> dict[str, Any]:
    """Return the JSON Schema of a type hint.

    Raises:
        TypeError: it has none; the message is a sentence without a full stop.
    """
    name = hint.__name__ if isinstance(hint, type) else str(hint)
    try:
        return schema_of_adapter(TypeAdapter(readable(hint)))
    except PydanticUserError as error:
        lines = str(error).splitlines()
        why = "" if "schema" in lines[0].lower() else f" ({lines[0].strip().rstrip('.')})"
        raise TypeError(f"the type hint {name} has no JSON Schema{why}") from None
    except Exception as error:  # a library's own hooks, and names in dataclasses that cannot be resolved
        first = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise TypeError(f"the type hint {name} has no JSON Schema ({first})") from None


def schema_of_adapter(adapter: Any) -> dict[str, Any]:
    """Return the JSON Schema of a TypeAdapter in the form that models read best; see `simplified`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PydanticJsonSchemaWarning)  # a default that JSON has no form for is left out
        schema = adapter.json_schema(schema_generator=_Schemas)
    return simplified(schema)
