"""The register of the attacks on the sandbox; the worker imports it too, so it imports nothing of cahl_pl."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

Facts = Mapping[str, Any]
"""What an attacker is told: where to find the program, its files and its sockets."""

Function = TypeVar("Function", bound=Callable[[Any], Any])


class Attack(NamedTuple):
    """An attack.

    Attributes:
        title: what is tried.
        limit: the limit of the sandbox that has to stop it, a key of `enforced`; None: nothing stops it.
        function: tries it.
    """

    title: str
    limit: str | None
    function: Callable[[Facts], Any]


ATTACKS: dict[str, Attack] = {}


def attack(limit: str | None) -> Callable[[Function], Function]:
    """Register an attack; its docstring says what is tried."""

    def register(function: Function) -> Function:
        ATTACKS[function.__name__] = Attack((function.__doc__ or "").rstrip("."), limit, function)
        return function

    return register


def libc() -> ctypes.CDLL:
    """Return the C library, its results checked for errors."""
    return ctypes.CDLL(None, use_errno=True)


def checked(result: int) -> int:
    """Return the result of a C function, or its error."""
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result
