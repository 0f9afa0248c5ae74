"""Modules of tools: Python files, or modules by name."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from functools import cache
from pathlib import Path
from types import ModuleType

from cahl_pl.errors import ConfigError


def load(module: str) -> ModuleType:
    """Return a module, by its path or its name; a file is run once.

    Raises:
        ConfigError: there is no such file or module, or it cannot be imported.
    """
    path = Path(module).expanduser()
    if path.suffix == ".py":
        if not path.is_file():
            raise ConfigError(f"there is no file {module!r} of Python tools; correct the path")
        return _run(path.resolve())
    try:
        return importlib.import_module(module)
    except (Exception, SystemExit) as error:
        raise ConfigError(
            f"the module {module!r} of Python tools cannot be imported ({_short(error)}); give the path of a .py file, or a "
            "module that Python finds"
        ) from error


@cache  # dataset and environment name the same file, and it must not be run twice
def _run(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"cahl_python_tools_{path.stem}_{abs(hash(path))}", path)
    assert spec is not None
    assert spec.loader is not None  # since the path ends with .py
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look for their module there
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[spec.name]
        raise ConfigError(
            f"the Python tools {str(path)!r} cannot be imported ({_short(error)}); correct the file"
        ) from error
    return module


def _short(error: BaseException) -> str:
    """Return the first line of an error's text, without its last full stop."""
    if isinstance(error, SystemExit):
        return "it exits when it is imported"
    first = (str(error).strip().splitlines() or [""])[0].rstrip(".")
    return first or type(error).__name__
