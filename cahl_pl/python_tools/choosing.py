"""Choice of a module's functions that are tools."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from types import FunctionType, MethodType, ModuleType
from typing import Any, Final, TypeAlias

from cahl_pl.errors import ConfigError

AnyFunction: TypeAlias = Callable[..., Any]


@dataclass(frozen=True)
class Choice:
    """Functions that a module offers.

    Attributes:
        functions: functions by name, in order.
        left_out: public functions that it does not offer, since they have no docstring.
        faults: objects that decorators have put in place of functions, each in a sentence.
    """

    functions: dict[str, AnyFunction]
    left_out: dict[str, AnyFunction]
    faults: tuple[str, ...] = ()


def choose(module: ModuleType, where: str, names: Sequence[str] | None = None) -> Choice:
    """Return the functions that are tools: those of `names`, else of `__all__`, else the module's own with a docstring.

    The module's own are public functions that it defines, and methods, partials and callable objects that it has under
    a public name.

    Args:
        module: the module.
        where: its name in errors.
        names: names to offer.

    Raises:
        ConfigError: a name does not lead to a callable.
    """
    values = vars(module)
    own = [name for name, value in values.items() if not name.startswith("_") and _is_own(value, module)]
    listed = names
    if listed is None and "__all__" in values:
        listed = [name for name in values["__all__"] if not isinstance(values.get(name), type | ModuleType)]
        listed = [name for name in listed if name not in values or callable(values[name])]
    if listed is not None:
        unknown = [name for name in listed if not _can_be_called(values.get(name))]
        if unknown:
            raise ConfigError("; ".join(_unknown(where, name, own) for name in unknown))
        return Choice({name: values[name] for name in listed}, {})
    functions = {name: values[name] for name in own if docstring_of(values[name])}
    left_out = {name: values[name] for name in own if name not in functions}
    faults = [_fault_of_object(name, value) for name, value in values.items() if not name.startswith("_")]
    return Choice(functions, left_out, tuple(fault for fault in faults if fault is not None))


_HELD: Final = ("func", "fn", "coroutine", "function", "on_invoke_tool", "_func", "handler")
"""Attributes that contain the function in objects of other programs' `@tool` decorators."""


def _fault_of_object(name: str, value: Any) -> str | None:
    """Return the fault of a decorator's tool, which cannot be called as a function; None for anything else."""
    if callable(value) or isinstance(value, ModuleType):
        return None
    fields = getattr(value, "__dict__", None)
    if not isinstance(fields, dict) or not isinstance(fields.get("name"), str):
        return None
    held = next((key for key in _HELD if callable(fields.get(key))), None)
    if held is None:
        return None
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    return (
        f"{name} is an object of {kind}, which a decorator has put in the place of the function: leave the decorator out, or "
        f"add a function of another name that calls {name}.{held}"
    )


def choose_methods(owner: type, where: str, names: Sequence[str] | None = None) -> Choice:
    """Return the methods of a class that are tools: those of `names`, else all public ones with a docstring.

    They are not bound to an instance: None stands in its place, and a session calls the methods of its own instance.

    Args:
        owner: the class.
        where: its name in errors.
        names: names to offer.

    Raises:
        ConfigError: a name is not that of a method.
    """
    found: dict[str, AnyFunction] = {}
    for base in reversed(owner.__mro__[:-1]):
        for name, value in vars(base).items():
            if isinstance(value, staticmethod | classmethod):
                found[name] = getattr(owner, name)
            elif _is_function(value):  # also one that `functools.cache` has wrapped
                found[name] = partial(value, None)
    public = [name for name in found if not name.startswith("_")]
    if names is not None:
        unknown = [name for name in names if name not in found]
        if unknown:
            raise ConfigError("; ".join(_unknown(where, name, public) for name in unknown))
        return Choice({name: found[name] for name in names}, {})
    functions = {name: found[name] for name in public if docstring_of(found[name])}
    return Choice(functions, {name: found[name] for name in public if name not in functions})


def docstring_of(value: Any) -> str | None:
    """Return the docstring of a callable itself; None if there is none."""
    while isinstance(value, partial):
        value = value.func
    if _is_function(value) or isinstance(value, MethodType):
        return inspect.getdoc(value)
    if inspect.isbuiltin(value):
        return value.__doc__
    return inspect.getdoc(type(value).__call__) or inspect.getdoc(type(value))


def _unknown(where: str, name: str, own: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, own, 1)
    hint = f"did you mean {near[0]}?" if near else f"its functions are: {', '.join(own) or 'none'}"
    return f"{where} has no function {name!r}; {hint}"


def _can_be_called(value: Any) -> bool:
    return callable(value) and not isinstance(value, type)


def _is_function(value: Any) -> bool:
    """Return whether it is a function, or one that a decorator such as `functools.cache` has wrapped in an object."""
    wrapped = None if isinstance(value, type) else inspect.getattr_static(value, "__wrapped__", None)
    return isinstance(value, FunctionType) or (callable(value) and isinstance(wrapped, FunctionType))


def _is_own(value: Any, module: ModuleType) -> bool:
    """Return whether the module itself has made this callable, and not only imported it."""
    if not _can_be_called(value):
        return False
    if isinstance(value, partial):
        return True
    if isinstance(value, MethodType):
        holder = value.__self__
        made_here = (holder if isinstance(holder, type) else type(holder)).__module__ == module.__name__
        return made_here or any(holder is other for other in vars(module).values())
    if _is_function(value):
        return bool(value.__module__ == module.__name__)
    return type(value).__module__ == module.__name__
