"""Python functions that a configuration names."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from cahl_pl.errors import ConfigError, Interrupted
from cahl_pl.errors.missing_packages import missing_package


def import_function(path: str, what: str) -> Callable[..., Any]:
    """Return the function at an import path such as `my_package.my_function`.

    Args:
        path: module and name, with a dot between them.
        what: its purpose, with which the error begins.

    Raises:
        ConfigError: the path leads to nothing that can be called.
    """
    if path.endswith(".py") or not path.replace(".", "").isidentifier():
        raise ConfigError(
            f"{what} {path!r} is no import path: write module and function with dots, such as my_module.my_function, and start "
            "where Python finds the module"
        )
    module, _, name = path.rpartition(".")
    try:
        function = getattr(importlib.import_module(module), name)
    except Interrupted:
        raise
    except BaseException as error:  # the module may raise anything
        itself = isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{error.name}.")
        if not itself and (missing := missing_package(error)):
            raise ConfigError(f"{what} {path!r} cannot be imported: {missing}") from error
        reason = str(error) if isinstance(error, Exception) else f"the module ends with {type(error).__name__}"
        raise ConfigError(f"{what} {path!r} cannot be imported: {reason}") from error
    if not callable(function):
        raise ConfigError(f"{what} {path!r} is not a function, but a {type(function).__name__}")
    return function  # type: ignore[no-any-return]
