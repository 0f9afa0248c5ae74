"""Aliases of types that hold themselves, such as `JSON = dict[str, "JSON"] | list["JSON"] | str`, as pydantic takes them.

Pydantic looks for the name of such an alias in the module in which it was made: each is kept here, under a name of its own.
"""

from __future__ import annotations

import types
from collections.abc import Mapping
from typing import Annotated, Any, Final, ForwardRef, Literal, Self, Union, get_args, get_origin

from typing_extensions import TypeAliasType

OWNER: Final = "(the class)"
"""The name, in a scope, of the class that a method is one of: what `Self` means."""

_MOST: Final = 1000
"""Aliases within one another."""


def closed(hint: Any, scope: Mapping[str, Any]) -> Any:
    """Return a hint in which no name is left that stands for an alias around it, and no `Self`.

    Args:
        hint: whose names have been replaced, but for those within an alias of the same name.
        scope: the names that it was written in.

    Raises:
        NameError: a name is not in the scope.
    """
    return _closed(hint, scope, {})


def _closed(hint: Any, scope: Mapping[str, Any], made: dict[str, str]) -> Any:
    """Do it; `made`: alias -> the name under which it is kept here, or will be."""
    if hint is Self:
        return scope.get(OWNER, hint)
    name = hint.__forward_arg__ if isinstance(hint, ForwardRef) else hint if isinstance(hint, str) else None
    if name is not None:
        return _named(name, scope, made)
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is None or origin is Literal or not arguments:
        return hint
    if origin is Annotated:
        inner = _closed(arguments[0], scope, made)
        return hint if inner is arguments[0] else Annotated[(inner, *arguments[1:])]
    new = tuple(
        [_closed(part, scope, made) for part in one] if isinstance(one, list) else _closed(one, scope, made)
        for one in arguments
    )
    if all(a is b for a, b in zip(new, arguments, strict=True)):
        return hint
    if origin in (Union, types.UnionType):
        return Union[new]  # noqa: UP007
    return origin[new if len(new) > 1 else new[0]]


def _named(name: str, scope: Mapping[str, Any], made: dict[str, str]) -> Any:
    if name in made:
        return globals()[made[name]] or ForwardRef(made[name])  # in the latter case it is around this one
    if not name.isidentifier():
        return _closed(eval(name, {**scope}), scope, made)  # as `get_type_hints` does with a module's own text
    if name not in scope:
        raise NameError(f"name {name!r} is not defined")
    value = scope[name]
    if get_origin(value) is None:
        return value
    if len(made) > _MOST:
        raise NameError(f"{name!r} holds too many others")
    kept = next(one for one in (name, *(f"{name}_{n}" for n in range(2, 10**6))) if one not in globals())
    made[name] = kept
    globals()[kept] = None  # taken
    alias = TypeAliasType(kept, _closed(value, scope, made))  # type: ignore[misc]
    globals()[kept] = alias
    return alias
