"""State that all episodes share: changes that calls make in a module of tools."""

from __future__ import annotations

import hashlib
import pickle
import time
from collections.abc import Iterator
from types import FunctionType, ModuleType
from typing import Any, Final

MAX_SECONDS: Final = 2.0
"""Total time limit for checks; a module with much data is checked less often."""


class SharedState:
    """Finder of values of a module that have changed since it was imported.

    It checks the module's variables, the attributes of its classes and the defaults of its functions. Values that cannot
    be pickled, such as a connection, are not checked.
    """

    def __init__(self, module: ModuleType) -> None:
        self._module = module
        self._seconds = 0.0
        self._before = self._digests()

    def changed(self) -> list[str]:
        """Return the names of changed values, once: after the first find, or when the time is used up, the list is empty."""
        if self._seconds > MAX_SECONDS:
            return []
        now = self._digests()
        found = [name for name, digest in now.items() if self._before.get(name, digest) != digest]
        if found:
            self._seconds = 2 * MAX_SECONDS
        return found

    def _digests(self) -> dict[str, bytes]:
        began = time.perf_counter()
        digests = {}
        for name, value in _values(self._module):
            try:
                digests[name] = hashlib.blake2b(pickle.dumps(value)).digest()
            except Exception:  # raised by its class, which may raise anything
                continue
        self._seconds += time.perf_counter() - began
        return digests


def _values(module: ModuleType) -> Iterator[tuple[str, Any]]:
    for name, value in list(vars(module).items()):
        if name.startswith("__") or isinstance(value, ModuleType):
            continue
        own = getattr(value, "__module__", None) == module.__name__
        if isinstance(value, type):
            for attribute, inner in list(vars(value).items()) if own else ():
                if not attribute.startswith("__") and not callable(inner) and not hasattr(inner, "__get__"):
                    yield f"{name}.{attribute}", inner
        elif isinstance(value, FunctionType):
            if own and (value.__defaults__ or value.__kwdefaults__):
                yield f"a default of {name}", (value.__defaults__, value.__kwdefaults__)
        elif not callable(value):
            yield name, value
