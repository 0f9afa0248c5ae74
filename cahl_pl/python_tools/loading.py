"""Modules of tools: Python files, or modules by name."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import importlib.util
import io
import sys
import traceback
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType

from cahl_pl.errors import ConfigError
from cahl_pl.errors.encodings import not_utf8, wide_encoding
from cahl_pl.errors.missing_packages import missing_package


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
        with _apart():
            return importlib.import_module(module)
    except (Exception, SystemExit) as error:
        itself = isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{error.name}.")
        if not itself and (missing := missing_package(error)):
            raise ConfigError(f"the module {module!r} of Python tools cannot be imported: {missing}") from error
        raise ConfigError(
            f"the module {module!r} of Python tools cannot be imported ({_short(error)}); give the path of a .py file, or a "
            "module that Python finds"
        ) from error


def split_class(module: str) -> tuple[str, str | None]:
    """Return the module of `my_tools.py:Shop` or `package.my_tools:Shop`, and the name of the class; None without one."""
    path, _, name = module.rpartition(":")
    return (path, name) if path and name.isidentifier() else (module, None)


def class_of(module: ModuleType, name: str, where: str) -> type:
    """Return a class of a module.

    Raises:
        ConfigError: there is none of that name.
    """
    found = vars(module).get(name)
    if not isinstance(found, type):
        known = classes_of(module)
        near = difflib.get_close_matches(name, known, 1)
        hint = f"did you mean {near[0]}?" if near else f"its classes are: {', '.join(known) or 'none'}"
        raise ConfigError(f"{where} has no class {name!r}; {hint}")
    return found


def classes_of(module: ModuleType) -> list[str]:
    """Return the names of the public classes that a module defines."""
    return [
        name
        for name, value in vars(module).items()
        if isinstance(value, type) and value.__module__ == module.__name__ and not name.startswith("_")
    ]


@cache  # dataset and environment name the same file, and it must not be run twice
def _run(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"cahl_python_tools_{path.stem}_{abs(hash(path))}", path)
    assert spec is not None
    assert spec.loader is not None  # since the path ends with .py
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look for their module there
    if str(path.parent) not in sys.path:
        sys.path.append(
            str(path.parent)
        )  # for files beside it, as of a script; last, so that they stand in for no package
    try:
        with _apart():
            spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[spec.name]
        if known := missing_package(error) or _encoding(path, error) or _relative(path, error):
            raise ConfigError(f"the Python tools {str(path)!r} cannot be imported: {known}") from error
        raise ConfigError(
            f"the Python tools {str(path)!r} cannot be imported ({_where(path, error)}{_short(error)}); correct the file"
        ) from error
    return module


@contextlib.contextmanager
def _apart() -> Iterator[None]:
    """Keep what a module prints while it is imported out of a program's output, and the program's input from it."""
    own = sys.stdin
    sys.stdin = io.StringIO()
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        sys.stdin = own


def _where(path: Path, error: BaseException) -> str:
    """Return the line of the file in which an error was raised last, and the error's type; nothing where that says nothing."""
    if isinstance(error, (SyntaxError, SystemExit)):  # a syntax error's text has the line
        return ""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return f"line {lines[-1]}: {type(error).__name__}: " if lines else f"{type(error).__name__}: "


def _encoding(path: Path, error: BaseException) -> str | None:
    """Return what to say of a file that is in another encoding than it says; None where that is not what is wrong."""
    data = path.read_bytes()
    if wide_encoding(data[:4]) is not None:
        return not_utf8(path, data[:4])
    try:
        data.decode()
    except UnicodeDecodeError as fault:
        return not_utf8(path, b"", fault.start) if isinstance(error, SyntaxError) else None
    return None


def _relative(path: Path, error: BaseException) -> str | None:
    """Return what to say of a file of a package, whose imports start with a dot; None for another error."""
    if not isinstance(error, ImportError) or "relative import" not in str(error):
        return None
    return f"it is a part of a package ({error}); give the module's name, such as `{path.parent.name}.{path.stem}`"


def _short(error: BaseException) -> str:
    """Return the first line of an error's text, without its last full stop."""
    if isinstance(error, SystemExit):
        return "it exits when it is imported"
    first = (str(error).strip().splitlines() or [""])[0].rstrip(".")
    return first or type(error).__name__
