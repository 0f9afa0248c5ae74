"""Recursive type aliases, such as `JSON = dict[str, "JSON"] | list["JSON"] | str`, in a form that pydantic accepts.

Pydantic looks for the name of such an alias in the module in which it was made: each is kept here, under a unique name.
"""

from __future__ import annotations

import types
from collections.abc import Mapping
from typing import Annotated, Any, Final, ForwardRef, Literal, Self, Union, get_args, get_origin

from typing_extensions import TypeAliasType

OWNER: Final = "(the class)"
"""Name, in a scope, of the class to which a method belongs: the meaning of `Self`."""

_MOST: Final = 1000
"""Maximum number of aliases within one another."""


def closed(hint: Any, scope: Mapping[str, Any]) -> Any:
    """Return a hint in which names of enclosing aliases and `Self` are resolved.

    Args:
        hint: a hint with resolved names, except those within an alias of the same name.
        scope: the namespace in which it was written.

    Raises:
        NameError: a name is not in the scope.
    """
    return _closed(hint, scope, {})


def _closed(hint: Any, scope: Mapping[str, Any], made: dict[str, str]) -> Any:
    """Do the work of `closed`; `made`: alias -> the name under which it is kept here, or will be."""
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
        return globals()[made[name]] or ForwardRef(made[name])  # in the latter case it encloses this one
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
    globals()[kept] = None  # reserved
    alias = TypeAliasType(kept, _closed(value, scope, made))  # type: ignore[misc]
    globals()[kept] = alias
    return alias
