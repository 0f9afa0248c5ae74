"""Parameters of a function: their description for a model, and its values as the types that the function declares."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from types import UnionType
from typing import Annotated, Any, Final, Union, Unpack, get_args, get_origin, get_type_hints, is_typeddict

import typing_extensions
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, create_model
from pydantic.fields import FieldInfo

from cahl_pl.errors import ArgumentError
from cahl_pl.python_tools.docstrings import Documentation
from cahl_pl.python_tools.hints import hint_in_docstring, resolved
from cahl_pl.python_tools.recursive import OWNER
from cahl_pl.python_tools.schemas import optional_keys, readable, schema_of, schema_of_adapter
from cahl_pl.python_tools.simplify import is_finite

STATE: Final = "state"
"""Name of the parameter that is not offered: it is the session's own state."""


class Parameters:
    """Parameters of one function.

    Args:
        function: any callable.
        documentation: its docstring's documentation of them.

    Attributes:
        faults: reasons why the function cannot be a tool, each a sentence that names the parameter; often empty.
        has_state: whether it takes the session's state.
        schema: the JSON Schema of the arguments, without references; empty if there are faults.
    """

    def __init__(self, function: Callable[..., Any], documentation: Documentation) -> None:
        self.faults: list[str] = []
        self.schema: dict[str, Any] = {}
        try:
            self._signature = inspect.signature(function)
        except (ValueError, TypeError):
            self.faults.append("its parameters are not known to Python, as of many functions written in C: wrap it")
            return
        fixed = function.keywords if isinstance(function, partial) else {}
        offered = {
            name: parameter
            for name, parameter in self._signature.parameters.items()
            if name != STATE and name not in fixed and parameter.kind != parameter.VAR_KEYWORD
        }
        scope = _globals(function)
        self._options, self._keys = "", dict[str, inspect.Parameter]()  # `**options: Unpack[Options]`, and its keys
        for name, parameter in self._signature.parameters.items():
            if parameter.kind == parameter.VAR_KEYWORD:
                self._options, self._keys = name, _unpacked(parameter, scope)
        offered |= self._keys
        self.has_state = STATE in self._signature.parameters and STATE not in fixed
        fields: dict[str, Any] = {}
        self._names: dict[str, str] = {}  # of the model's fields: a parameter may have the name of one of its methods
        for i, (name, parameter) in enumerate(offered.items()):
            try:
                fields[f"p{i}"] = self._field(parameter, documentation, scope)
                self._names[f"p{i}"] = name
            except _Fault as fault:
                self.faults.append(f"the parameter {name!r} {fault}")
        if not self.faults:
            self._read(function, fields)

    def _field(self, parameter: inspect.Parameter, documentation: Documentation, scope: Mapping[str, Any]) -> Any:
        hint = _hint(parameter, documentation, scope)
        default = ... if parameter.default is parameter.empty else parameter.default
        if parameter.kind == parameter.VAR_POSITIONAL:
            hint, default = list[hint], []  # type: ignore[valid-type]
        own = getattr(default, "description", None) if isinstance(default, FieldInfo) else None
        more: dict[str, Any] = {}
        if description := own or documentation.parameters.get(parameter.name) or _remark(hint):
            more["description"] = description
        if choices := documentation.choices.get(parameter.name):
            more["json_schema_extra"] = {"enum": list(choices)}
        return Annotated[readable(hint), Field(alias=parameter.name, **more)], default

    def _read(self, function: Callable[..., Any], fields: Mapping[str, Any]) -> None:
        name = getattr(function, "__name__", "tool")
        config = ConfigDict(extra="forbid", arbitrary_types_allowed=False)
        self._model = create_model(name, __config__=config, **fields)
        schema = schema_of_adapter(TypeAdapter(self._model))
        schema.pop("description", None)
        self.schema = {"type": "object", "properties": {}, **schema}
        for field, (_, default) in fields.items():
            if not is_finite(getattr(default, "default", default)):  # JSON has no infinities: pydantic writes null
                self.schema["properties"][self._names[field]].pop("default", None)

    def read(self, arguments: Mapping[str, Any]) -> inspect.BoundArguments:
        """Return the arguments in their declared types, bound to the signature, without the state.

        Raises:
            ArgumentError: a value cannot be read as its type.
        """
        try:
            values = self._model.model_validate(dict(arguments))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ".".join(map(str, first["loc"]))
            raise ArgumentError(f"parameter {place!r}: {first['msg'][:1].lower()}{first['msg'][1:]}") from None
        given = values.model_fields_set
        bound = inspect.BoundArguments(self._signature, {})
        options: dict[str, Any] = {}
        for field, name in self._names.items():
            if name in self._keys:
                if field in given:
                    options[name] = getattr(values, field)
                continue
            default = self._signature.parameters[name].default
            if field in given or isinstance(default, FieldInfo):
                bound.arguments[name] = getattr(values, field)
        if options:
            bound.arguments[self._options] = options
        bound.arguments = {
            name: bound.arguments[name] for name in self._signature.parameters if name in bound.arguments
        }
        return bound

    def call(self, function: Callable[..., Any], arguments: Mapping[str, Any], state: Any) -> Any:
        """Call the function with arguments in JSON's types.

        Raises:
            ArgumentError: a value cannot be read as its type.
            BaseException: whatever the function raises.
        """
        bound = self.read(arguments)
        if self.has_state:
            bound.arguments[STATE] = state
        bound.apply_defaults()  # for parameters that a model has left out; also puts them in order
        return function(*bound.args, **bound.kwargs)


class _Fault(Exception):
    """Fault of a parameter, worded to follow its name."""


def _hint(parameter: inspect.Parameter, documentation: Documentation, scope: Mapping[str, Any]) -> Any:
    name, hint = parameter.name, parameter.annotation
    if hint is parameter.empty and name in documentation.types:
        hint = hint_in_docstring(documentation.types[name], scope)
        if hint is None:
            raise _Fault(
                f"has no type hint, and {documentation.types[name]!r} in the docstring is no type; write one, such as `str`"
            )
    if hint is parameter.empty and isinstance(parameter.default, bool | int | float | str):
        hint = type(parameter.default)
    if hint is parameter.empty:
        raise _Fault("has no type hint; write one, such as `str`")
    try:
        hint = resolved(hint, scope)
    except Exception as error:  # whatever evaluating the annotation raises
        unknown = error.name if isinstance(error, NameError) else None
        cure = f"import {unknown} outside of `if TYPE_CHECKING:`, or correct it" if unknown else "correct it"
        raise _Fault(f"has a type hint that cannot be read ({error}); {cure}") from None
    try:
        schema_of(hint)
    except TypeError as error:
        raise _Fault(
            f"cannot be given as JSON: {error}; use types such as str, int, float, bool, list, dict, date, an Enum or a "
            "dataclass"
        ) from None
    return hint


def _unpacked(parameter: inspect.Parameter, scope: Mapping[str, Any]) -> dict[str, inspect.Parameter]:
    """Return the keys of `**options: Unpack[Options]`, each as a parameter; none for other `**options`."""
    try:
        hint = resolved(parameter.annotation, scope)
    except Exception:  # no annotation, or one that cannot be read
        return {}
    if get_origin(hint) not in (Unpack, typing_extensions.Unpack) or not is_typeddict(get_args(hint)[0]):
        return {}
    (options,) = get_args(hint)
    hints = get_type_hints(options, include_extras=True)
    optional = optional_keys(options, hints)
    return {
        name: inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, annotation=of, default=None if name in optional else inspect.Parameter.empty
        )
        for name, of in hints.items()
    }


def _remark(hint: Any) -> str | None:
    """Return the text of `Annotated[int, "How many."]`, or of a `Doc` instead of it; also of `Annotated[...] | None`."""
    if get_origin(hint) in (Union, UnionType):
        return next((remark for one in get_args(hint) if (remark := _remark(one))), None)
    if get_origin(hint) is not Annotated:
        return None
    for extra in get_args(hint)[1:]:
        text = getattr(extra, "documentation", extra)
        if isinstance(text, str):
            return text
    return None


def _globals(function: Any) -> Mapping[str, Any]:
    """Return the namespace in which a callable's annotations are written."""
    while isinstance(function, partial):
        function = function.func
    function = inspect.unwrap(function)
    if not hasattr(function, "__globals__") and not hasattr(function, "__func__"):
        function = inspect.unwrap(type(function).__call__)
    function = getattr(function, "__func__", function)
    names: Mapping[str, Any] = getattr(function, "__globals__", {})
    owner = names.get(getattr(function, "__qualname__", "").rpartition(".")[0])
    return {**names, OWNER: owner} if isinstance(owner, type) else names
